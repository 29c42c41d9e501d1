"""The rules that several attacks share; a message names argument, rule and value."""

import math
import numbers

import torch
from torch import Tensor

from jacfast import calling


def check_box(clip: tuple[float, float] | None, x: Tensor) -> None:
    """Check the box of valid inputs, and that x lies in it: clipping alone would change it.

    A bound may be passed by its rounding and that of x, as in ``(0 - mean) / std`` of images
    normalised in another order; what is NaN is not looked at.
    """
    if clip is None:
        return
    check_bounds("clip", clip)
    eps = 2 * torch.finfo(x.dtype).eps
    low, high = clip[0] - eps * abs(clip[0]), clip[1] + eps * abs(clip[1])
    beyond = x[(x < low) | (x > high)]
    if beyond.numel():
        raise ValueError(
            f"x must lie in the box clip = {tuple(clip)}; got {float(beyond.min()):.4g} .. "
            f"{float(beyond.max()):.4g} (give the box of your inputs, or clip=None)"
        )


def check_bounds(name: str, box: tuple[float, float]) -> None:
    """Check a box by itself."""
    pair = isinstance(box, tuple | list) and len(box) == 2 and all(map(_is_number, box))
    if not (pair and box[0] < box[1]):
        raise ValueError(f"{name} must be (low, high) with low < high; got {box}")


def check_classes(logits: Tensor, y: Tensor, *, name: str = "y") -> None:
    """Check that there is a class beside the label, and the labels against the number of them."""
    calling.check_classes(logits)
    calling.check_labels(y, *logits.shape, name=name)


def number(name: str, value: object) -> None:
    """Check that it is a number."""
    if not _is_number(value):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")


def at_least(name: str, value: float, least: float) -> None:
    """Check a length, a weight: finite, and >= `least`."""
    number(name, value)
    if not least <= value < math.inf:
        raise ValueError(f"{name} must be finite and >= {least}; got {value}")


def above_zero(name: str, value: float) -> None:
    """Check a length, a weight: finite, and > 0."""
    number(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and > 0; got {value}")


def one_of(name: str, value: object, choices: tuple) -> None:
    """Check a choice."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")


def count(name: str, value: int, least: int = 1) -> None:
    """Check a number of steps, of samples: an integer, >= `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}; got {value}")


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
