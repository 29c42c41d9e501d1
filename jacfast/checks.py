"""The rules that arguments share; a message names argument, rule and value.

What is fine comes back as Python's own number, or as the choice is listed: where it is kept, no
type of NumPy is to be seen in a repr, a file or the key of a recorded step.
"""

import math
import numbers
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Choice = TypeVar("Choice")
SEEDS = (-(2**63), 2**64 - 1)  # what torch.manual_seed takes
MOST = 2**63 - 1  # what PyTorch takes of integers


def number(name: str, value: Any) -> float:
    """Check that it is a number."""
    if type(value) is float:  # at once, as in `count`
        return value
    if not is_number(value):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")
    if not isinstance(value, numbers.Integral):
        return float(value)
    own = int(value)
    if abs(own) > MOST:
        raise ValueError(f"{name} must be a float beyond 2^63; got {_digits(own)}")
    return own


def at_least(name: str, value: Any, least: float) -> float:
    """Check a length, a weight: finite, and >= `least`."""
    own = number(name, value)
    if not least <= own < math.inf:
        raise ValueError(f"{name} must be finite and >= {least}; got {value}")
    return own


def above_zero(name: str, value: Any) -> float:
    """Check a length, a weight: finite, and > 0."""
    own = number(name, value)
    if not 0 < own < math.inf:
        raise ValueError(f"{name} must be finite and > 0; got {value}")
    return own


def share(name: str, value: Any) -> float:
    """Check a share of the samples: in (0, 1]."""
    own = number(name, value)
    if not 0 < own <= 1:
        raise ValueError(f"{name} must be in (0, 1]; got {value}")
    return own


def one_of(name: str, value: Any, choices: tuple[Choice, ...]) -> Choice:
    """Check a choice among strings and numbers."""
    known = isinstance(value, str) or is_number(value)
    if not known or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")
    return choices[choices.index(value)]


def several(name: str, values: Any) -> list[float]:
    """Check a list of numbers, a tensor or an array [n] among them; return it as a list."""
    if getattr(values, "ndim", 1) != 1:
        raise ValueError(f"{name} must be a list of numbers; got shape {list(values.shape)}")
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, Iterable) or isinstance(listed, str | Mapping):
        raise TypeError(f"{name} must be a list of numbers; got {type(values).__name__}")
    return [number(name, v.tolist() if hasattr(v, "tolist") else v) for v in listed]


def flag(name: str, value: Any) -> bool:
    """Check a switch: a word, "no" among them, would count as True."""
    if getattr(value, "ndim", 0) > 0 or value not in (False, True):
        raise TypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def path(name: str, value: Any) -> Path:
    """Check the name of a file or a folder."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, a str or a Path; got {type(value).__name__}")
    return Path(value)


def file(name: str, value: Any) -> Path:
    """Check the name of a file to be written: in a folder that is there, and no folder itself."""
    place = path(name, value)
    if place.is_dir() or not place.parent.is_dir():
        raise ValueError(f"{name} must be a file in a folder that exists; got {place}")
    return place


def count(name: str, value: Any, least: int = 1, other: str = "", most: int = MOST) -> int:
    """Check a number of steps, of samples: an integer, >= `least`, or what `other` says."""
    known = type(value) is int  # at once: to ask for a number of any kind takes longer
    if not known and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        raise TypeError(f"{name} must be an integer{other}; got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}{other}; got {_digits(value)}")
    if value > most:
        limit = f"2^{most.bit_length()} - 1"
        raise ValueError(f"{name} must be <= {limit}{other}; got {_digits(value)}")
    return int(value)


def _digits(value: Any) -> str:
    """Return an integer for a message; one of thousands of digits Python would not write."""
    bits = int(value).bit_length()
    return f"an integer of {bits} bits" if bits > 128 else str(value)


def seed(value: Any) -> int:
    """Check a seed: one that PyTorch takes."""
    return count("seed", value, SEEDS[0], most=SEEDS[1])


def place(name: str, value: Any) -> str | int | None:
    """Check what names a part of something, by its name or its index; None names none."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a name, an index or None; got {value!r}")
    return int(value)


def is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def keep(owner: object, **values: Any) -> None:
    """Keep in a frozen dataclass, in its `__post_init__`, what checks of its fields returned."""
    for name, value in values.items():
        object.__setattr__(owner, name, value)
