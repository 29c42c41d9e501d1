"""By what an object of some other kind is known to a look: its numbers, or its identity."""

import sys
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from jacfast.calling.attributes import LIGHTNING
from jacfast.step.traced.refuse import Refused

# packages whose objects change in every step; a recorded call must not ask them (`aside`)
ASKED = tuple(f"{name}." for name in (*LIGHTNING, "torch.optim", "torch.utils.data"))
OPAQUE = (*ASKED, "logging.")
BYTES = 1 << 20  # of arrays, whose numbers are compared in every call


def opaque(kind: type) -> bool:
    """Say whether nothing is looked at in objects of a class."""
    return f"{kind.__module__}.".startswith(OPAQUE)


def is_asked(thing: Any) -> bool:
    """Say whether it is an object that changes in every step, whatever the model asks it."""
    if isinstance(thing, Tensor | nn.Module | dict | list | tuple | set | type):
        return False
    return f"{type(thing).__module__}.".startswith(ASKED)


def content(thing: Any) -> Any:
    """Return the numbers of an array or a buffer, by which it is known; None of anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(thing, (numpy.ndarray, numpy.generic)):
        if thing.dtype.hasobject:
            return thing.tolist()
        memory, about, frozen = thing, (thing.dtype.descr, thing.shape), _frozen(thing)
        if frozen and isinstance(thing, numpy.ndarray):
            return None
    else:
        try:
            memory = memoryview(thing)
        except (TypeError, ValueError, BufferError):  # it has none
            return None
        about, frozen = (memory.format, memory.shape), memory.readonly
    if memory.nbytes <= BYTES:
        return about, memory.tobytes()
    if frozen:
        return None
    raise Refused(
        f"an array of {memory.nbytes} bytes, too large to be compared in every call: make it a "
        "tensor, or read-only (flags.writeable = False)"
    )


def _frozen(values: Any) -> bool:
    """Say whether neither an array nor one whose memory it shares can be written to."""
    while hasattr(values, "flags"):
        if values.flags.writeable:
            return False
        values = values.base
    return True


class Same:
    """Stands for an object by its identity, without holding it."""

    def __init__(self, thing: Any) -> None:
        self.kind, self.hash = type(thing), hash((type(thing), id(thing)))
        try:
            self.held: Callable[[], Any] = weakref.ref(thing)
        except TypeError:
            self.held = lambda: thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held() is other.held() is not None

    def __hash__(self) -> int:
        return self.hash
