"""The rules that several attacks share; a message names argument, rule and value."""

import math
import numbers

from torch import Tensor

from jacfast import calling
from jacfast.attacks.losses import Criterion


def check_classes(logits: Tensor, wanted: Criterion) -> None:
    """Check that there is a class beside the label, and the labels against the number of them."""
    calling.check_classes(logits)
    name = "target" if wanted.targeted else "y"
    calling.check_labels(wanted.labels, *logits.shape, name=name)


def number(name: str, value: object) -> None:
    """Check that it is a number."""
    if not is_number(value):
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


def is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
