"""How many seconds of post-processing does each way of penalising need to make a network robust?

python -m benchmarks.robustness [mlp | tf_cnn ...] [--data FOLDER]
python -m benchmarks.robustness [mlp | tf_cnn ...] [--data FOLDER] --prices    no timing: what each
    weight costs in accuracy, and brings by rho_adv and in the worst case over attacks
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from benchmarks.harness import RESULTS, environment, print_table, write
from jacfast import data, models
from jacfast.data.split import Split
from jacfast.timing import rivals
from jacfast.timing.ours import ours

LAM, LR = 0.03, 1e-3
LAMS = (0.0, 0.003, 0.01, 0.03)  # of --prices
SEEDS = (0, 1, 2)
RHO_IMAGES, TEST_IMAGES, WORST_IMAGES = 500, 5000, 200
EPS = 1.5  # of the worst case, in the 2-norm


class Case(NamedTuple):
    """A network, and how long it is trained."""

    factory: Callable[[], nn.Module]
    samples: int  # of a step
    steps: int  # of post-processing
    looks: int  # at accuracy and rho_adv
    left_out: tuple[str, ...] = ()  # what would take minutes more, and no aim speaks of


CASES = {
    "mlp": Case(models.seck_c, 500, 360, 8),
    "tf_cnn": Case(models.tf_tutorial_cnn, 500, 40, 5, ("jacfast, exact",)),
}
# name -> (step, how many times the steps of the others)
METHODS: dict[str, tuple[rivals.Step, int]] = {
    "loop, exact": (rivals.loop, 1),
    "JacobianReg, n = 1": (rivals.jacobian_reg, 1),
    "jacfast, exact": (ours(jacfast.Frobenius("exact")), 1),
    "jacfast, n = 1": (ours(jacfast.Frobenius()), 1),
    "jacfast, subsample 1/4": (ours(jacfast.Frobenius(subsample=0.25)), 2),
    "jacfast, subsample 1/8": (ours(jacfast.Frobenius(subsample=0.125)), 2),
    "plain": (rivals.plain, 1),
}


def trained(factory: Callable[[], nn.Module], split: Split) -> nn.Module:
    """Return the network, trained on 120,000 images without a penalty, in eval mode."""
    torch.manual_seed(0)
    model = factory()
    epochs = max(2, 120_000 // len(split.train_x))
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(epochs):
        for batch in torch.randperm(len(split.train_x)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(split.train_x[batch]), split.train_y[batch]).backward()
            optimizer.step()
    return model.eval()


def look(model: nn.Module, split: Split, seconds: float) -> dict[str, float]:
    x, y = split.test_x[:TEST_IMAGES], split.test_y[:TEST_IMAGES]
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in x.split(128)]) == y
    rho = jacfast.rho_adv(model, split.test_x[:RHO_IMAGES])
    return {"seconds": seconds, "accuracy": float(right.double().mean()), "rho": rho}


def worst(model: nn.Module, split: Split) -> dict[str, float | list[str]]:
    """Return what several attacks find together, and the signs that gradients hide more."""
    x, y = split.test_x[:WORST_IMAGES], split.test_y[:WORST_IMAGES]
    found = jacfast.robustness_report(model, x, y, eps=(EPS,), restarts=3)
    far = found.distances["worst case"][found.right]
    return {
        "median_distance": float(far.median()),
        "worst": found.robust_accuracy(EPS),
        "pgd": found.robust_accuracy(EPS, "PGD"),
        "findings": [sign.name for sign in found.findings],
    }


def curve(
    model: nn.Module,
    split: Split,
    step: rivals.Step,
    case: Case,
    times: int,
    seed: int,
    lam: float = LAM,
) -> list[dict]:
    """Train on; return looks at accuracy and rho_adv, by seconds of training alone.

    The last one has the worst case over attacks, too.
    """
    model, order = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    looks, seconds, batches = [look(model, split, 0.0)], 0.0, iter(())
    steps = times * case.steps
    for done in range(1, steps + 1):
        batch = next(batches, None)
        if batch is None:
            batches = iter(torch.randperm(len(split.train_x), generator=order).split(case.samples))
            batch = next(batches)
        x, y = split.train_x[batch], split.train_y[batch]
        start = time.perf_counter()
        optimizer.zero_grad()
        step(model, x, y, lam)
        optimizer.step()
        seconds += time.perf_counter() - start
        if done % (steps // case.looks) == 0:
            looks.append(look(model, split, seconds))
            print(f"seed {seed}, step {done}:", {k: round(v, 4) for k, v in looks[-1].items()})
    return [*looks[:-1], looks[-1] | worst(model, split)]


def time_to(looks: list[dict], rho: float, accuracy: float) -> float | None:
    """Return the seconds until both are reached, interpolated between looks; None if never."""
    for before, after in itertools.pairwise(looks):
        if after["rho"] >= rho and after["accuracy"] >= accuracy:
            share = (rho - before["rho"]) / (after["rho"] - before["rho"])
            share = min(max(share, 0.0), 1.0) if before["accuracy"] >= accuracy else 1.0
            return before["seconds"] + share * (after["seconds"] - before["seconds"])
    return None


def draw(curves: dict[str, list[list[dict]]], rho: float, path: Path) -> None:
    """Draw rho_adv and accuracy against seconds: the median of the seeds, and all in a band.

    A method has its colour in every picture. Before the training, at no time on a logarithmic axis,
    all methods are at the same point: the dotted line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, key, scale in zip(axes, ("rho", "accuracy"), (1, 100), strict=True):
        for name, runs in curves.items():
            looks = [list(look) for look in zip(*runs, strict=True)][1:]
            seconds = [statistics.median(p["seconds"] for p in look) for look in looks]
            values = [[scale * p[key] for p in look] for look in looks]
            color = f"C{list(METHODS).index(name)}"
            axis.plot(seconds, list(map(statistics.median, values)), ".-", color=color, label=name)
            low, high = list(map(min, values)), list(map(max, values))
            axis.fill_between(seconds, low, high, color=color, alpha=0.2, linewidth=0)
        start = scale * next(iter(curves.values()))[0][0][key]
        axis.axhline(start, color="0.5", linestyle=":", label="before")
    axes[0].axhline(rho, color="k", linestyle="--", label="95% of the exact loop's last")
    axes[0].set_ylabel("rho_adv")
    axes[1].set_ylabel("test accuracy, %")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xlabel("seconds of training (logarithmic)")
        axis.grid(alpha=0.3, which="both")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Train, measure, draw and write the results, network by network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", choices=[*CASES, []], metavar="network")
    parser.add_argument("--data", type=Path, help="folder with the MNIST files; default 5,000")
    parser.add_argument("--prices", action="store_true", help="what each weight costs and brings")
    options = parser.parse_args()
    split = data.load(options.data)
    for network in options.networks or CASES:
        (prices if options.prices else measure)(network, split)


def prices(network: str, split: Split) -> None:
    """Train on with each weight, n = 1; compare what it costs with what attacks then find."""
    case = CASES[network]
    model, step = trained(case.factory, split), METHODS["jacfast, n = 1"][0]
    start = look(model, split, 0.0) | worst(model, split)
    found: dict[str, list[dict]] = {"before": [start]}
    for lam in LAMS:
        found[f"lam {lam:g}"] = [
            curve(model, split, step, case, 1, seed, lam)[-1] for seed in SEEDS
        ]
    table = [("", "accuracy, %", "rho_adv", "median distance", f"left at {EPS:g}, %", "findings")]
    for name, lasts in found.items():
        mean = {
            key: statistics.mean(last[key] for last in lasts)
            for key in ("accuracy", "rho", "median_distance", "worst")
        }
        signs = sorted({sign for last in lasts for sign in last["findings"]})
        cells = [f"{100 * mean['accuracy']:.2f}", f"{mean['rho']:.4f}"]
        cells += [f"{mean['median_distance']:.3f}", f"{100 * mean['worst']:.1f}"]
        table.append((name, *cells, ", ".join(signs) or "none"))
    print_table(f"{network}: worst case of {WORST_IMAGES} images, 2-norm", table)
    about = {"environment": environment(), "data": split.name, "eps": EPS, "images": WORST_IMAGES}
    name = f"robustness-prices-{network}-cpu"
    print("written:", write(name, about | {"seeds": len(SEEDS), "found": found}))


def measure(network: str, split: Split) -> None:
    case = CASES[network]
    model = trained(case.factory, split)
    methods = {name: method for name, method in METHODS.items() if name not in case.left_out}
    curves: dict[str, list[list[dict]]] = {name: [] for name in methods}
    for seed in SEEDS:
        for name, (step, times) in methods.items():
            curves[name].append(curve(model, split, step, case, times, seed))
    exact = [run[-1] for run in curves["loop, exact"]]
    rho = 0.95 * statistics.mean(last["rho"] for last in exact)
    accuracy = statistics.mean(last["accuracy"] for last in exact) - 0.003
    heading = ("accuracy, %", "rho_adv", "median distance", f"left at {EPS:g}, %")
    table = [("", *heading, "seconds", "to the goal", "spread")]
    reached = {}
    for name, runs in curves.items():
        times = [time_to(run, rho, accuracy) for run in runs]
        found = sorted(t for t in times if t is not None)
        reached[name] = statistics.median(found) if len(found) == len(runs) else None
        last = [run[-1] for run in runs]
        cells = [f"{100 * statistics.mean(p['accuracy'] for p in last):.2f}"]
        cells += [f"{statistics.mean(p['rho'] for p in last):.4f}"]
        cells += [f"{statistics.mean(p['median_distance'] for p in last):.3f}"]
        cells += [f"{100 * statistics.mean(p['worst'] for p in last):.1f}"]
        cells += [f"{statistics.mean(p['seconds'] for p in last):.1f}"]
        cells += [f"{reached[name]:.2f}" if reached[name] else "never"]
        table.append((name, *cells, f"{found[0]:.2f} .. {found[-1]:.2f}" if found else ""))
    print_table(f"{network}; goal: rho_adv {rho:.4f} at accuracy {100 * accuracy:.2f}%", table)
    results = {"environment": environment(), "data": split.name, "lam": LAM}
    results |= {"samples": case.samples, "steps": case.steps}
    results |= {"goal": {"rho": rho, "accuracy": accuracy}, "seconds_to_goal": reached}
    draw(curves, rho, RESULTS / f"robustness-{network}-cpu.png")
    print("written:", write(f"robustness-{network}-cpu", results | {"curves": curves}))


if __name__ == "__main__":
    main()
