"""The time of one penalised training step, against the same step as people write it today."""

import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast.penalties import frobenius_penalty


def looped_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Return mean_i ||J(x_i)||_F^2 by the usual loop over the classes, in plain autograd."""
    total = logits.new_zeros(())
    for k in range(logits.shape[1]):
        (g,) = torch.autograd.grad(logits[:, k].sum(), x, create_graph=True)
        total = total + g.square().sum()
    return total / len(x)


def time_steps(
    model: nn.Module, x: Tensor, y: Tensor, n: int | str, repeats: int = 5
) -> dict[str, float]:
    """Time forward, backward and penalty of one batch, on a copy of the model.

    Returns:
        Median seconds by name: ``plain`` (cross-entropy alone), ``jacfast`` (with
        `frobenius_penalty`, n projections) and ``loop`` (with `looped_penalty`, which is exact),
        taken in turns in one run; and ``speedup``, loop over jacfast.

    Raises:
        RuntimeError: the two exact penalties disagree, so that their times would mean nothing.
    """
    model = copy.deepcopy(model).eval()
    penalties: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
        "plain": None,
        "jacfast": lambda logits, leaf: frobenius_penalty(logits, leaf, n),
        "loop": looped_penalty,
    }
    with torch.random.fork_rng(devices=[]):
        _verify(model, x[:32])
        times: dict[str, list[float]] = {name: [] for name in penalties}
        for repeat in range(repeats + 1):
            for name, penalty in penalties.items():
                start = time.perf_counter()
                leaf = x.detach().requires_grad_()
                logits = model(leaf)
                loss = F.cross_entropy(logits, y)
                if penalty is not None:
                    loss = loss + 0.1 * penalty(logits, leaf)
                torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
                if repeat:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {**medians, "speedup": medians["loop"] / medians["jacfast"]}


def _verify(model: nn.Module, x: Tensor) -> None:
    leaf = x.detach().requires_grad_()
    logits = model(leaf)
    ours, loop = frobenius_penalty(logits, leaf, "exact"), looped_penalty(logits, leaf)
    if not torch.allclose(ours, loop, rtol=1e-4):
        raise RuntimeError(f"the penalties must agree; got {float(ours)} and {float(loop)}")
