"""What a result shows of itself at the prompt: a line, with shapes in the place of entries."""

import dataclasses
import reprlib
from typing import Any

from torch import Tensor


def one_line(result: Any) -> str:
    """Return the repr of a NamedTuple or a dataclass: ``Line(t=float64[9], margin=...)``."""
    if dataclasses.is_dataclass(result):
        names = [field.name for field in dataclasses.fields(result)]
    else:
        names = list(result._fields)
    fields = (f"{name}={_short(getattr(result, name))}" for name in names)
    return f"{type(result).__name__}({', '.join(fields)})"


def _short(value: Any) -> str:
    if isinstance(value, Tensor) and value.dim() > 0:
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Tensor):
        value = value.item()
    return f"{value:g}" if isinstance(value, float) else reprlib.repr(value)
