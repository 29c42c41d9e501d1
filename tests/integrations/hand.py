"""What the integrations are compared with: a plain loop, its penalty by double backward."""

import contextlib
import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast

EXACT = jacfast.Frobenius("exact")  # nothing random in it


class Mean(nn.Module):
    """A running mean of sizes, by which they are divided, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))
        self.calls = 0

    def forward(self, sizes: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * sizes.detach().mean()
        self.calls += 1
        return sizes / self.mean


@dataclasses.dataclass(frozen=True)
class Normalised(jacfast.Frobenius):
    """Each row's square over the running mean of such."""

    kept: nn.Module | None = None

    def measure(self, g: Tensor) -> Tensor:
        return self.kept(super().measure(g))


def batches(sizes: list[int], shape: tuple[int, ...] = (6,), classes: int = 5) -> list:
    """Return (x, y) batches of those sizes, always the same."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for size in sizes:
        x = torch.randn(size, *shape, generator=generator)
        made.append((x, torch.randint(classes, (size,), generator=generator)))
    return made


def groups(items: list, size: int) -> list[list]:
    """Cut a list into optimiser steps of `size` micro-batches; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def train(
    model: nn.Module,
    steps: list[list],
    lam: Callable[[int], float],
    *,
    penalty: jacfast.Frobenius = EXACT,
    divisors: list[int] | None = None,
    weights: list[list[float]] | None = None,
    clip: float | None = None,
    bf16: bool = False,
    lr: float = 0.1,
) -> list[dict[str, float]]:
    """Train in place by SGD; return loss, penalty, lam of every micro-batch.

    Args:
        steps: the micro-batches (x, y) of each optimiser step.
        divisors: by what each step divides its micro-batches' losses; default: their number.
        weights: instead, the share that each micro-batch's cross-entropy has in its step; the
            penalty's is then one over the number of micro-batches.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr)
    seen = []
    for step, micro in enumerate(steps):
        optimizer.zero_grad()
        share = 1 / (len(micro) if divisors is None else divisors[step])
        for index, (x, y) in enumerate(micro):
            x = x.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
                logits = model(x)
                loss = F.cross_entropy(logits, y)
                value = penalty(logits, x, y)
            part = share if weights is None else weights[step][index]
            (part * loss + share * lam(step) * value).backward()
            seen.append({"loss": loss.item(), "penalty": value.item(), "lam": lam(step)})
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return seen


def assert_same(model: nn.Module, twin: nn.Module, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Compare the parameters of two models of one make."""
    pairs = zip(model.named_parameters(), twin.parameters(), strict=True)
    for (name, got), want in pairs:
        torch.testing.assert_close(
            got.detach(), want.detach(), rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def moved(model: nn.Module, start: Tensor) -> float:
    """Return how far the parameters are from `start`, the same ones as a vector."""
    now = torch.nn.utils.parameters_to_vector(model.parameters())
    return float((now - start).norm().detach())
