"""The rules that several attacks share; a message names argument, rule and value."""

import math

from torch import Tensor

from jacfast import quiet


def check_box(clip: tuple[float, float] | None, x: Tensor) -> None:
    """Check the box of valid inputs, and that x lies in it: clipping alone would change it."""
    if clip is None:
        return
    if not clip[0] < clip[1]:
        raise ValueError(f"clip must be (low, high) with low < high, or None; got {clip}")
    low, high = float(x.min()), float(x.max())
    if low < clip[0] or high > clip[1]:
        raise ValueError(
            f"x must lie in the box clip = {clip}; got {low:.4g} .. {high:.4g} "
            "(give the box of your inputs, or clip=None)"
        )


def check_classes(logits: Tensor, y: Tensor, *, name: str = "y") -> None:
    """Check that there is a class beside the label, and the labels against the number of them."""
    quiet.check_classes(logits)
    quiet.check_labels(y, *logits.shape, name=name)


def at_least(name: str, value: float, least: float) -> None:
    """Check a length, a weight: finite, and >= `least`."""
    if not least <= value < math.inf:
        raise ValueError(f"{name} must be finite and >= {least}; got {value}")


def above_zero(name: str, value: float) -> None:
    """Check a length, a weight: finite, and > 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and > 0; got {value}")


def one_of(name: str, value: object, choices: tuple) -> None:
    """Check a choice."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")


def count(name: str, value: int) -> None:
    """Check a number of steps: >= 1."""
    if value < 1:
        raise ValueError(f"{name} must be >= 1; got {value}")
