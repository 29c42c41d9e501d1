"""How near to the shortest perturbation does each attack come, and for how many passes?

python -m benchmarks.minimal_norm [CASE ...] [--images 500] [--p 1]
python -m benchmarks.minimal_norm --data FOLDER --network NAME MODEL WEIGHTS [--network ...]
"""

import argparse
import functools
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast
from benchmarks.counted import Counted
from benchmarks.harness import environment, print_table, write
from benchmarks.lengths import Attack, attacks
from jacfast import data, models
from jacfast.commands.arguments import trained as read

Images = tuple[Tensor, Tensor]
SEED, FIRST, RESAMPLES = 1, 500, 1000  # images and weights that no constant was chosen by
CHOSEN_ON = 25  # of the first images, on which rivals' constants are chosen


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


CASES = {
    "MLP": (models.seck_c, 8, "plain"),
    "MLP, penalised": (models.seck_c, 8, "penalised"),
    "CNN": (cnn, 12, "plain"),
    "CNN, PGD-trained": (cnn, 12, "pgd"),
}


def trained(factory: Callable[[], nn.Module], epochs: int, kind: str) -> nn.Module:
    """Return a network of the digits, trained plainly, with the penalty or on PGD's images."""
    split = data.load(None)
    torch.manual_seed(SEED)
    model = factory()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        for batch in torch.randperm(len(split.train_x)).split(100):
            x, y = split.train_x[batch], split.train_y[batch]
            penalty = torch.zeros(())
            if kind == "penalised":
                logits, penalty = jacfast.forward_with_penalty(model, x)
            elif kind == "pgd":
                model.eval()
                logits = model(jacfast.pgd(model, x, y, eps=0.15, steps=5, random_start=False))
            else:
                logits = model(x)
            optimizer.zero_grad()
            (F.cross_entropy(logits, y) + 0.03 * penalty).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def distances(
    model: nn.Module, x: Tensor, y: Tensor, attacks: dict[str, Attack], p: int, other: Images
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return each attack's distances [N], inf where it failed, and what it cost per sample.

    Of several sets of constants an attack has those that are best on the `other` images.
    """
    far, costs = {}, {}
    for name, attack in attacks.items():
        constants = best(model, name, attack, p, *other)
        counted = Counted(model).eval()
        start = time.process_time()
        moved = run(attack, constants, counted, x, y)
        seconds = time.process_time() - start
        far[name] = lengths(model, name, moved, x, y, p)
        costs[name] = {"passes": counted.passes / len(x), "processor seconds": seconds / len(x)}
        if len(attack.grid) > 1:
            costs[name]["chosen"] = constants
    return far, costs


def best(
    model: nn.Module, name: str, attack: Attack, p: int, x: Tensor, y: Tensor
) -> dict[str, float]:
    """Return the constants with the shortest mean length; what failed counts as the far corner."""
    if len(attack.grid) == 1:
        return attack.grid[0]
    farthest = torch.maximum(x, 1 - x).flatten(1).double().norm(p, dim=1)
    means = []
    for constants in attack.grid:
        found = lengths(model, name, run(attack, constants, model, x, y), x, y, p)
        means.append(float(found.minimum(farthest).mean()))
    return attack.grid[means.index(min(means))]


def run(
    attack: Attack, constants: dict[str, float], model: nn.Module, x: Tensor, y: Tensor
) -> Tensor:
    """Return what it finds; x, with a warning, if it ends in an assertion of its own."""
    torch.manual_seed(SEED)
    try:
        return attack.run(model, x, y, **constants).detach()
    except AssertionError:  # as foolbox's may
        warnings.warn(f"an attack with {constants} ended in an assertion", stacklevel=2)
        return x


def lengths(model: nn.Module, name: str, moved: Tensor, x: Tensor, y: Tensor, p: int) -> Tensor:
    """Return the attack's distances [N], inf where it failed."""
    if not bool(((moved >= 0) & (moved <= 1)).all()):
        raise RuntimeError(f"{name} left the box")
    with torch.no_grad():
        fooled = model(moved).argmax(dim=1) != y
    length = (moved - x).flatten(1).double().norm(p, dim=1)
    return torch.where(fooled, length, math.inf)


def optimality(size: Tensor, best: Tensor) -> float:
    """Return AttackBench's: 1 where all distances are the best ones, 0 where all are the largest.

    The areas below the curves of robust accuracy are means of distances, cut at the largest best
    one: what is farther, or failed, counts as that.
    """
    most = best.max()
    lost = size.clamp(max=float(most)).sum() - best.sum()
    return float(1 - lost / (most * len(best) - best.sum()))


def figures(size: Tensor, best: Tensor) -> dict[str, Any]:
    drawn = torch.randint(len(best), (RESAMPLES, len(best)), generator=torch.Generator())
    again = torch.tensor([optimality(size[some], best[some]) for some in drawn])
    ratio = size / best
    return {
        "optimality": optimality(size, best),
        "interval of 95%": [float(again.quantile(q)) for q in (0.025, 0.975)],
        "best / length, mean": float((best / size).mean()),
        "length / best, median": float(ratio.median()),
        "length / best, 95%": float(ratio.sort().values[int(0.95 * len(ratio))]),
        "length, median": float(size.median()),
        "failed": int(size.isinf().sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--data", type=Path, help="folder of --network's data set")
    parser.add_argument("--network", nargs=3, action="append", metavar=("NAME", "MODEL", "WEIGHTS"))
    parser.add_argument("--p", type=int, default=2, choices=(1, 2), help="the norm")
    arguments = parser.parse_args()
    split, results, p = data.load(arguments.data), {}, arguments.p
    file = f"minimal_norm{'-networks' if arguments.network else ''}{'' if p == 2 else '-1'}"
    for case, make in networks(arguments).items():
        model = make().requires_grad_(False)
        x, y = right(model, split, FIRST, arguments.images)
        other = right(model, split, 0, CHOSEN_ON)
        far, costs = distances(model, x, y, attacks(p), p, other)
        shortest = torch.stack(list(far.values())).amin(dim=0)
        rows = {name: {**figures(size, shortest), **costs[name]} for name, size in far.items()}
        mean = float(shortest.mean())
        results[case] = {"images": len(x), "mean of the best": mean, "attacks": rows}
        show(case, rows)
        about = {
            "environment": environment("foolbox", "adv-lib", "torchattacks"),
            "data": split.name,
        }
        write(file, {**about, "cases": results})


def right(model: nn.Module, split: data.Split, first: int, count: int) -> Images:
    """Return so many test images, from the `first` on, that are classified correctly."""
    x, y = (t[first : first + 2 * count] for t in (split.test_x, split.test_y))
    found = (model(x).argmax(dim=1) == y).nonzero()[:count, 0]
    return x[found], y[found]


def networks(arguments: argparse.Namespace) -> dict[str, Callable[[], nn.Module]]:
    """Return what is to be measured: networks of files, or those of the digits."""
    if arguments.network:
        given = arguments.network
        return {name: functools.partial(read, model, Path(file)) for name, model, file in given}
    return {case: functools.partial(trained, *CASES[case]) for case in arguments.cases}


def show(case: str, rows: dict) -> None:
    table: list[tuple[str, ...]] = [("", "optimality", "95%", "ratio", "failed", "passes", "s")]
    for name, row in rows.items():
        low, high = row["interval of 95%"]
        cells = (f"{row['optimality']:.3f}", f"{low:.3f}..{high:.3f}")
        cells += (f"{row['best / length, mean']:.3f}", str(row["failed"]))
        cells += (f"{row['passes']:.0f}", f"{row['processor seconds']:.3g}")
        table.append((name, *cells))
    print_table(case, table)


if __name__ == "__main__":
    main()
