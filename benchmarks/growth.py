"""How does the cost of a penalised step grow with projections, classes, samples and depth?

python -m benchmarks.growth
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast
from benchmarks.harness import (
    RESULTS,
    environment,
    must_agree,
    print_table,
    take_turns,
    write,
)
from jacfast import models
from jacfast.penalties.base import Penalty
from jacfast.timing.task import prepare
from jacfast.timing.verify import Oracle, gradient

REPEATS, STEPS, LAM = 7, 3, 0.01
TICKS = (2, 3, 5, 10, 20)  # plain steps, in the picture
# What varies; the rest is 256 samples, 10 classes, n = 1 and three hidden layers of 256.
AXES = {
    "projections n": (1, 2, 3, 5, 10),
    "classes K": (10, 100, 1000),
    "samples N": (32, 128, 512, 2048),
    "hidden layers": (1, 2, 4, 8, 16),
}


def by_hand(n: int) -> Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]:
    """Return what a careful user writes for n projections."""

    def forward(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        logits = model(x)
        q = torch.linalg.qr(torch.randn(len(x), n, logits.shape[1]).mT).Q
        total = logits.new_zeros(())
        for v in q.movedim(2, 0):
            (g,) = torch.autograd.grad(logits, x, v, create_graph=True)
            total = total + g.square().sum()
        return logits, total * (logits.shape[1] / n) / len(x)

    return forward


def of(penalty: Penalty) -> Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]:
    return lambda model, x: jacfast.forward_with_penalty(model, x, penalty=penalty)


def contenders(n: int, classes: int) -> dict[str, tuple[Callable, Penalty | None]]:
    """Return by name what makes logits and penalty, and which penalty that is."""
    found: dict[str, tuple[Callable, Penalty | None]] = {
        "plain": (lambda model, x: (model(x), 0.0), None),
        "autograd by hand": (by_hand(n), jacfast.Frobenius(n)),
        "Frobenius": (of(jacfast.Frobenius(n)), jacfast.Frobenius(n)),
    }
    if n < classes:
        found["CrossLipschitz"] = (of(jacfast.CrossLipschitz(n)), jacfast.CrossLipschitz(n))
    return found


def step(forward: Callable, model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.zero_grad()
    logits, penalty = forward(model, x)
    (F.cross_entropy(logits, y) + LAM * penalty).backward()


def verify(found: dict[str, tuple[Callable, Penalty | None]], *given: Any) -> None:
    """Hold each against plain autograd in float64, of the same draws."""
    model, x, y = given
    for name, (forward, penalty) in found.items():
        if penalty is not None:
            task = prepare(model, x, y, penalty, LAM, (), None, None)
            truth, most = Oracle(task, 0).gradient(penalty)
            got = gradient(task, functools.partial(step, forward, *given))
            must_agree(name, got, "plain autograd", truth, most)


def point(axis: str, value: int) -> dict[str, dict]:
    """Verify and time a step of every contender at one point of an axis."""
    size = dict(zip(AXES, (1, 10, 256, 3), strict=True))
    n, classes, samples, hidden = (size | {axis: value}).values()
    torch.manual_seed(0)
    model = models.mlp(784, *[256] * hidden, classes)
    x, y = torch.rand(samples, 784), torch.randint(classes, (samples,))
    found = contenders(n, classes)
    verify(found, model, x, y)

    def run(forward: Callable) -> None:
        for _ in range(STEPS):
            step(forward, model, x, y)

    runs = {name: functools.partial(run, forward) for name, (forward, _) in found.items()}
    times = take_turns(runs, REPEATS)
    return {name: {k: v / STEPS for k, v in spent.items()} for name, spent in times.items()}


def draw(results: dict[str, dict]) -> None:
    """Draw plain steps against each axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(AXES), sharey=True)
    for axis, (name, points) in zip(axes, results.items(), strict=True):
        for contender in ("autograd by hand", "Frobenius", "CrossLipschitz"):
            shown = {int(v): p for v, p in points.items() if contender in p}
            ratios = [p[contender]["median"] / p["plain"]["median"] for p in shown.values()]
            axis.plot(list(shown), ratios, "o-", label=contender)
        axis.set_xscale("log")
        axis.set_xticks(list(map(int, points)), list(points))
        axis.set_yscale("log")
        axis.set_yticks(TICKS, [str(tick) for tick in TICKS])
        axis.minorticks_off()
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("plain steps")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(RESULTS / "growth-cpu.png")


def main() -> None:
    """Measure, draw, print and write the results."""
    results: dict[str, dict] = {}
    for axis, values in AXES.items():
        results[axis] = {str(value): point(axis, value) for value in values}
        rows = [(axis, *map(str, values))]
        for name in ("plain", "autograd by hand", "Frobenius", "CrossLipschitz"):
            spent = [results[axis][str(v)].get(name, {}).get("median") for v in values]
            rows.append((name, *("" if s is None else f"{1e3 * s:.1f}" for s in spent)))
        print_table(f"milliseconds a step against {axis}", rows)
    draw(results)
    print("written:", write("growth-cpu", {"environment": environment()} | results))


if __name__ == "__main__":
    main()
