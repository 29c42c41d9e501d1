"""What may come out of a model: logits, one row per sample."""

from collections.abc import Callable

from torch import Tensor

Model = Callable[[Tensor], Tensor]


def logits_of(model: Model, x: Tensor) -> Tensor:
    """Return model(x) as [N, K], or say what is wrong with it."""
    logits = model(x)
    check_logits(logits, x)
    return logits.flatten(1)


def check_logits(logits: object, x: Tensor) -> None:
    """Check what a model returned for x."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must return a tensor of logits; got {type(logits).__name__}")
    if not logits.dtype.is_floating_point:
        raise TypeError(f"model must return floating-point logits; got {logits.dtype}")
    if logits.dim() < 2 or len(logits) != len(x):
        raise ValueError(
            f"model must return one row of logits per sample, [N, K] with N = {len(x)}; "
            f"got shape {list(logits.shape)}"
        )


def check_classes(logits: Tensor) -> None:
    """Check that logits [N, K] have a boundary between classes."""
    if logits.shape[1] < 2:
        raise ValueError(f"model must return at least 2 logits per sample; got {logits.shape[1]}")
