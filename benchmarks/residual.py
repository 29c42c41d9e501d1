"""DeepFool and rows on ResNet-18: against foolbox, and what skipped candidates could save.

python -m benchmarks.residual [--width 16 64] [--samples 8 16 64]
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn

import jacfast.attacks.search
from benchmarks.deepfool import Case, trained
from benchmarks.harness import environment, print_table, write
from benchmarks.networks import BasicBlock, resnet18
from jacfast import data, deepfool
from jacfast.attacks import PRESETS
from jacfast.lean import lean
from jacfast.timing.attacks import agree
from jacfast.timing.toolboxes import FOOLBOX, call
from jacfast.vjp import grad, pull_back_blocks

IMAGES, EPOCHS, REPEATS = 2000, 3, 3
LOOSE = (1, 2, 5, 10, 100, 1000, 1e6)


def seconds(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the medians of the processor's seconds, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(some) for name, some in times.items()}


def passes(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Return the ms of a sample: forward, with a graph, a row by itself, one of nine, plain step.

    The last is forward and backward with all gradients, of which foolbox makes nine an iteration.
    """
    leaf, plain = x.clone().requires_grad_(), resnet18(model[0].out_channels, x.shape[1]).eval()
    with lean(model.requires_grad_(False)):
        logits = model(leaf)
    rows = torch.randn(9, *logits.shape)

    def forward() -> None:
        with lean(model):
            model(leaf)

    runs = {
        "forward": forward,
        "row": lambda: [grad(logits, leaf, v, create_graph=False) for v in rows],
        "row of nine": lambda: pull_back_blocks(logits, leaf, rows),
        "plain step": lambda: plain(leaf).sum().backward(),
    }
    for run in runs.values():
        run()
    found = {name: 1e3 * value / len(x) for name, value in seconds(runs).items()}
    return {name: value / 9 if name.startswith("row") else value for name, value in found.items()}


def against(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Attack x by foolbox and here, with its choices, and compare."""
    y = model(x).argmax(dim=1)
    attack, theirs = FOOLBOX.make(model, x, 10), list[Tensor]()
    found = deepfool(model, x, y, **PRESETS["foolbox"])
    runs = {
        "foolbox": lambda: theirs.append(call(attack, x, y)),
        "jacfast": lambda: deepfool(model, x, y, **PRESETS["foolbox"]),
    }
    times = seconds(runs)
    norm = (theirs[-1] - x).flatten(1).norm(dim=1)
    fooled = (model(theirs[-1]).argmax(dim=1) != y).float().mean()
    ours = {"mean_norm": float(found.norm.mean()), "fooled": float(found.success.float().mean())}
    agree(ours, {"mean_norm": float(norm.mean()), "fooled": float(fooled)})
    iterations = found.iterations.double()
    return times | {
        "ratio": times["foolbox"] / times["jacfast"],
        "iterations": float(iterations.mean()),
        "most": float(iterations.max()),
        "vjps": float(found.vjps.double().mean()),
    }


def needed(model: nn.Module, x: Tensor) -> tuple[dict[str, list[float]], Tensor]:
    """Return rows a sample that a bound this many times too large would leave: all, by iteration.

    And the norms of all rows. An oracle: it knows the distances, and skips what a bound of the
    norms, that many times each of them, rules out once the nearest candidate has been computed.
    """
    steps: list[list[Tensor]] = []
    search, offer = jacfast.attacks.search.Search, jacfast.attacks.search.deepfool_candidate
    nearest = search.nearest

    def step(*arguments):
        steps.append([])
        return nearest(*arguments)

    def offered(w, value, label, best):
        norm = w.norm(dim=1)
        steps[-1].append(torch.stack([value.abs() / norm, norm]))
        return offer(w, value, label, best)

    with (
        mock.patch.object(search, "nearest", step),
        mock.patch.object(jacfast.attacks.search, "deepfool_candidate", offered),
    ):
        deepfool(model, x, **PRESETS["foolbox"])
    found = [torch.stack(some, dim=1) for some in steps]  # [2, C, n] of each iteration
    counts = {}
    for c in LOOSE:
        rows = [(d <= c * d.min(dim=0).values).sum(0).double() for d, _ in found]
        counts[f"{c:g}"] = [float(torch.cat(rows).mean()), *(float(row.mean()) for row in rows)]
    return counts, torch.cat([norm.flatten() for _, norm in found])


def looseness(model: nn.Sequential, x: Tensor, largest: float) -> float:
    """Return the product of the blocks' norms at x, over the largest norm of a row.

    The norms are those of each block's own Jacobian there, by power iteration: no bound that is a
    product of bounds of blocks, for whatever input, can be smaller.
    """
    here, product = x[:1], 1.0
    head = list(model).index(next(m for m in model if isinstance(m, nn.AdaptiveAvgPool2d)))
    parts = [model[:3], *(m for m in model if isinstance(m, BasicBlock)), model[head : head + 2]]
    for part in parts:
        v = torch.randn_like(here)
        for _ in range(30):
            v = v / v.norm()
            _, tangent = torch.func.jvp(part, (here,), (v,))
            _, pull = torch.func.vjp(part, here)
            (v,) = pull(tangent)
        product, here = product * float(tangent.norm()), part(here)
    weight = model[-1].weight
    return product * float(torch.cdist(weight, weight).max()) / largest


def case_of(width: int) -> Case:
    """Train ResNet-18 of that width on 2,000 of the digits that come with the library."""
    torch.manual_seed(0)
    split = data.load(None)
    few = dataclasses.replace(split, train_x=split.train_x[:IMAGES], train_y=split.train_y[:IMAGES])
    return trained(f"ResNet-18, width {width}", resnet18(width, 1), few, 1000, EPOCHS, 50)


def main() -> None:
    """Train, measure, print and write results/residual-WIDTH-cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--samples", nargs="+", type=int, default=[8, 16, 64])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for width in options.width:
        case = case_of(width)
        model = case.model.requires_grad_(False)
        results: dict = {"environment": environment("foolbox"), **case.about}
        table = [("samples", "foolbox, s", "jacfast, s", "times as fast", "iterations", "most")]
        costs = [("ms a sample", "forward", "row", "row of nine", "plain step")]
        for samples in options.samples:
            x = case.x[:samples]
            row = results[f"passes, {samples}"] = passes(model, x)
            costs.append((str(samples), *(f"{row[name]:.2f}" for name in costs[0][1:])))
            row = results[f"deepfool, {samples}"] = against(model.requires_grad_(True), x)
            keys = ("foolbox", "jacfast", "ratio", "iterations", "most")
            table.append((str(samples), *(f"{row[key]:.2f}" for key in keys)))
        counts, norms = needed(model.requires_grad_(False), case.x[:64])
        results["needed"], results["looseness"] = (
            counts,
            looseness(model, case.x, float(norms.max())),
        )
        rows = [("rows in iteration; bound too large by", "all", "1", "2", "3", "8")]
        rows += [
            (c, *(f"{value:.2f}" for value in (*some[:4], *some[8:9])))
            for c, some in counts.items()
        ]
        for title, one in (("passes", costs), ("DeepFool", table), ("an oracle", rows)):
            print_table(f"{case.title}: {title}", one)
        print(f"the product of the blocks' norms is {results['looseness']:.0f} times too large")
        print("written:", write(f"residual-{width}-cpu", results))


if __name__ == "__main__":
    main()
