"""NaN and infinity: what they mean in logits, and where they come from, before it is a figure."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from jacfast.calling.functions import looked_through
from jacfast.calling.outputs import check_classes
from jacfast.calling.warning import warn


def sane(logits: Tensor) -> Tensor:
    """Say which samples have logits [N, K] that say a class: none is NaN or +inf; -inf may be."""
    return (logits < float("inf")).all(dim=1)


def classes_of(logits: Tensor) -> Tensor:
    """Return the classes [N] of logits [N, K], K >= 2; -1 where they say none."""
    check_classes(logits)
    return torch.where(sane(logits), logits.argmax(dim=1), -1)


def largest(logits: Tensor) -> Tensor:
    """Return the largest magnitude [N], float64, of what is finite in logits [N, ...]."""
    wide = logits.detach().double().flatten(1)
    return torch.where(wide.isfinite(), wide, 0).abs().amax(dim=1)


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Return ``|a - b|``, float64; 0 where both are NaN or the same infinity, inf where one is."""
    a, b = a.detach().double(), b.detach().double()
    alike = (a == b) | (a.isnan() & b.isnan())
    return torch.where(alike, 0, (a - b).abs().nan_to_num(nan=float("inf"), posinf=float("inf")))


def say_not_finite(model: object, x: Tensor, bad: Tensor) -> None:
    """Say why something of samples x [N, ...] could not be computed: `bad` [N] bool.

    Raises:
        ValueError: a parameter or a buffer of the model is to blame. Warns if x is.
    """
    if not bool(bad.any()):
        return
    check_weights(model)
    own = bad & ~x.flatten(1).isfinite().all(dim=1)
    if bool(own.any()):
        warn(
            f"x holds NaN or infinity in {int(own.sum())} of {len(x)} samples, the first at "
            f"{int(own.nonzero()[0])}: their part of the figure means nothing"
        )


def say_bad_logits(model: object, x: Tensor, logits: Tensor) -> None:
    """Say which samples have a logit [N, K] that is NaN or +inf, and why; -inf is no such logit.

    Raises:
        ValueError: a parameter or a buffer of the model is to blame.
    """
    bad = ~sane(logits)
    say_not_finite(model, x, bad)
    alone = bad & x.flatten(1).isfinite().all(dim=1)
    if bool(alone.any()):
        warn(
            f"the model's logits are NaN or infinite in {int(alone.sum())} of {len(x)} samples, "
            f"the first at {int(alone.nonzero()[0])}: their part of the figure means nothing"
        )


def check_weights(model: object) -> None:
    """Refuse a model with a parameter that is NaN or infinite, or a buffer that is NaN or +inf.

    Buffers may hold -inf: masks of attention do.
    """
    for module in looked_through(model):
        if isinstance(module, nn.Module):
            for name, p in module.named_parameters():
                _check(f"parameter {name}", p)
            for name, buffer in module.named_buffers():
                _check(f"buffer {name}", buffer, masks=True)


@torch.no_grad()
def _check(name: str, tensor: Tensor, masks: bool = False) -> None:
    if not tensor.dtype.is_floating_point or is_lazy(tensor):
        return
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # float8 cannot be compared
    fine = wide < float("inf") if masks else wide.isfinite()
    if not bool(fine.all()):
        raise ValueError(
            f"the model's {name} must be finite; {int((~fine).sum())} of its {tensor.numel()} "
            "entries are NaN or infinite"
        )


def check_finite(name: str, x: Tensor) -> None:
    """Refuse inputs [N, ...] of which one holds NaN or infinity, before any work."""
    bad = ~x.flatten(1).isfinite().all(dim=1)
    if bool(bad.any()):
        raise ValueError(
            f"{name} must be finite; {int(bad.sum())} of {len(x)} samples hold NaN or infinity, "
            f"the first at {int(bad.nonzero()[0])}"
        )
