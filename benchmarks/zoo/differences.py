"""The truth of `oracle` against finite differences."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.oracle import Truth, error, logits_of, parameters, twice_differentiable

STEPS = tuple(10.0**-k for k in range(5, 13))
SETTLED = 1e-6  # two steps that agree so well are not followed by others


def against_differences(
    model: nn.Module, x: Tensor, y: Tensor, truth: Truth, lam: float
) -> tuple[float, float]:
    """Return how far the truth is from finite differences.

    First J along a direction of x, then the gradient along a direction of the parameters.
    """
    generator = torch.Generator().manual_seed(5)
    u = torch.randn(x.shape, dtype=x.dtype, generator=generator)

    def of_logits(step: float) -> Tensor:
        with torch.no_grad():
            return (logits_of(model, x + step * u) - logits_of(model, x - step * u)) / (2 * step)

    first = error([(truth.rows * u[:, None]).flatten(2).sum(2)], [_settled(of_logits)])
    along = [
        torch.randn(p.shape, dtype=p.dtype, generator=generator) * p.detach().abs().mean()
        for p in parameters(model)
    ]
    slope = sum((g * d).sum() for g, d in zip(truth.gradient(lam)[:-1], along, strict=True))
    measured = _settled(lambda step: _slope(model, x, y, lam, along, step))
    return first, error([slope], [measured])


def _settled(quotient: Callable[[float], Tensor]) -> Tensor:
    """Return the difference quotient at the step that changes least with the next, smaller one.

    Too long a step crosses kinks (where the penalty of a piecewise linear network jumps) or bends,
    too short a one has roundings: both change it from step to step. So the steps choose among
    themselves, without a look at what is judged. The kinks of a deep network lie so dense that
    1e-10 may be the first step between two of them.
    """
    found = [quotient(STEPS[0])]
    changes: list[float] = []
    for step in STEPS[1:]:
        found.append(quotient(step))
        changes.append(error(found[-1:], found[-2:-1]))
        if changes[-1] < SETTLED:
            break
    return found[changes.index(min(changes))]


def _slope(model: nn.Module, x: Tensor, y: Tensor, lam: float, u: list, step: float) -> Tensor:
    """Return the slope of the penalised loss along the direction `u` of the parameters."""
    values = []
    for way in (step, -2 * step, step):  # ahead, behind, and back
        for p, direction in zip(parameters(model), u, strict=True):
            p.data.add_(direction, alpha=way)
        if len(values) < 2:
            values.append(_loss(model, x, y, lam))
    return (values[0] - values[1]) / (2 * step)


def _loss(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> Tensor:
    with twice_differentiable():
        x = x.detach().clone().requires_grad_()
        logits = logits_of(model, x)
        rows = [torch.autograd.grad(z.sum(), x, retain_graph=True)[0] for z in logits.unbind(1)]
        penalty = sum(row.square().sum() for row in rows) / len(x)
        return (F.cross_entropy(logits, y) + lam * penalty).detach()
