"""One step in two ways, plain autograd and `forward_with_penalty`, and how they are compared."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import forward_with_penalty
from jacfast.penalties import Penalty
from tests.nets import relative_error

LAM = 0.3
ROUNDING = 1e-9  # relative, in float64


def plain(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    penalty: Penalty,
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return logits and penalty by double backward; the model is called on `chunk_size` samples."""
    x = x if x.requires_grad else x.detach().requires_grad_()
    logits = torch.cat([model(part) for part in x.split(chunk_size or len(x))])
    return logits, penalty(logits, x, y, generator=generator)


def fast(model: nn.Module, x: Tensor, y: Tensor, penalty: Penalty, **options):
    return forward_with_penalty(model, x, y, penalty=penalty, **options)


def loss_of(logits: Tensor, penalty: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(1).to(penalty.dtype), y) + LAM * penalty


def gradient(loss: Tensor, model: nn.Module, *more: Tensor) -> Tensor:
    """Return the gradient of `loss` in all trainable parameters, and `more`, joined."""
    inputs = [*(p for p in model.parameters() if p.requires_grad), *more]
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, inputs, materialize_grads=True)]
    )


def step(way, model: nn.Module, x: Tensor, y: Tensor, penalty: Penalty, seed: int = 0, **options):
    """Return logits, penalty and gradient of one step by `way`, `plain` or `fast`."""
    torch.manual_seed(seed)
    logits, value = way(model, x, y, penalty, **options)
    return logits.detach(), value.detach(), gradient(loss_of(logits, value, y), model)


def assert_same(got, want, rounding: float = ROUNDING) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert relative_error(one, other) < rounding
