"""The time of one penalised training step, against the same step as people write it today."""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast.calling import in_eval_mode
from jacfast.penalties import Frobenius
from jacfast.penalties.base import Count
from jacfast.step import forward_with_penalty
from jacfast.timing.rivals import looped_penalty


def time_steps(
    model: nn.Module, x: Tensor, y: Tensor, n: Count, repeats: int = 5
) -> dict[str, float]:
    """Time forward, backward and penalty of one batch, in eval mode; the model is left as it was.

    Returns:
        Median seconds by name: ``plain`` (cross-entropy alone), ``jacfast`` (with
        `forward_with_penalty`, n projections) and ``loop`` (with `looped_penalty`, which is exact),
        taken in turns in one run; ``speedup``, loop over jacfast; and ``images``, N.

    Raises:
        RuntimeError: the two exact penalties disagree, so that their times would mean nothing.
    """
    steps: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: F.cross_entropy(model(x), y),
        "jacfast": lambda: _fast(model, x, y, n),
        "loop": lambda: _looped(model, x, y),
    }
    with torch.random.fork_rng(devices=[]), in_eval_mode(model.modules()):
        _verify(model, x[:32])
        times: dict[str, list[float]] = {name: [] for name in steps}
        for repeat in range(repeats + 1):
            for name, loss in steps.items():
                start = time.perf_counter()
                torch.autograd.grad(loss(), list(model.parameters()), allow_unused=True)
                if repeat:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {**medians, "speedup": medians["loop"] / medians["jacfast"], "images": len(x)}


def _fast(model: nn.Module, x: Tensor, y: Tensor, n: Count) -> Tensor:
    logits, penalty = forward_with_penalty(model, x, penalty=Frobenius(n))
    return F.cross_entropy(logits, y) + 0.1 * penalty


def _looped(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    logits = model(leaf)
    return F.cross_entropy(logits, y) + 0.1 * looped_penalty(logits, leaf)


def _verify(model: nn.Module, x: Tensor) -> None:
    leaf = x.detach().requires_grad_()
    loop = looped_penalty(model(leaf), leaf)
    ours = forward_with_penalty(model, x, penalty=Frobenius("exact"))[1]
    if not torch.allclose(ours, loop, rtol=1e-4):
        raise RuntimeError(f"the penalties must agree; got {float(ours)} and {float(loop)}")
