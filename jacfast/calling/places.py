"""Where a model keeps what it holds: modules, containers, objects, and what is in these.

A place is something that holds other things: a module or an object, by its attributes; a container,
by its entries. `look` finds those of a model, `put` makes them hold again what they held.
"""

import copy
import functools
import types
from array import array
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from jacfast.calling.attributes import attributes, has_attributes, put_attributes

CONTAINERS = (dict, list, set, deque, bytearray, array)
NUMBERS = (bytearray, array)  # containers without objects
DEPTH = 4  # of containers and objects in each other, below an attribute of a module
OPAQUE = (nn.Module, Tensor, type, types.FunctionType, types.ModuleType, functools.partial)
SIMPLE = {type(None), bool, int, float, str, Tensor, nn.Parameter}
PLAIN = {dict, OrderedDict, list, set, deque}
FIXED = (tuple, frozenset)  # containers that stay as they are: another takes the place of one
KNOWN = (SIMPLE | PLAIN) - {Tensor, nn.Parameter}  # remembered by its place, or not at all
MANY = 1 << 12  # entries, from which on a container is data, and not looked into
BYTES = 1 << 20  # of a NumPy array, whose numbers are remembered up to this size


class Place(NamedTuple):
    """What holds something, what it held, and in words where it is."""

    holder: Any
    content: Any
    name: str  # the attribute of the module that leads to it; none of the module itself
    owner: str

    def at(self, key: Any) -> str:
        """Say where an entry is: by its own name, if it is an attribute, parameter or buffer."""
        return key if self.name in ("", "_parameters", "_buffers") else self.name


def look(owners: Iterable[object], arguments: Mapping[str, Any]) -> list[Place]:
    """Return modules, and others, as places, and all that is in their attributes, each once.

    And what is in further `arguments` of a call, by their names.
    """
    found: dict[int, Place] = {}
    for name, value in arguments.items():
        _inside(value, f"argument {name}", "call", found, DEPTH)
    for owner in owners:
        kind = type(owner).__name__
        held = vars(owner) if isinstance(owner, nn.Module) else attributes(owner)
        found[id(owner)] = Place(owner, dict(held), "", kind)
        for name, value in held.items():
            if type(value) in SIMPLE:  # most are: it costs a call less
                continue
            if type(value) in PLAIN and not value:
                found[id(value)] = Place(value, value.copy(), name, kind)
            else:
                _inside(value, name, kind, found, DEPTH)
    return list(found.values())


def _inside(value: Any, name: str, owner: str, found: dict[int, Place], depth: int) -> None:
    if not depth or id(value) in found:
        return
    if isinstance(value, (*FIXED, *CONTAINERS)):
        large = len(value) > MANY
        if large and depth < DEPTH:
            return
        if not isinstance(value, FIXED):
            found[id(value)] = Place(value, copied(value), name, owner)
        inner = () if large else value.values() if isinstance(value, dict) else value
        if has_attributes(value):  # beside its entries
            inner = (*inner, getattr(value, "__dict__", None))
    elif behind := _behind(value):
        inner = behind
    elif not isinstance(value, OPAQUE) and has_attributes(value):
        found[id(value)] = Place(value, dict(attributes(value)), name, owner)
        inner = found[id(value)].content.values()
    else:
        return
    for entry in inner:
        if type(entry) not in SIMPLE:
            _inside(entry, name, owner, found, depth - 1)


def _behind(value: Any) -> tuple[Any, ...]:
    """Return what a bound method, or a function with some of its arguments, belongs to."""
    if isinstance(value, types.MethodType | types.BuiltinFunctionType):
        return (value.__self__,)
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    return ()


def copied(container: Any) -> Any:
    """Return a copy that holds the same, in a fraction of the time of copy.copy where it may be."""
    return container.copy() if type(container) in PLAIN else copy.copy(container)


def content(place: Place) -> Any:
    """Return what a place holds now."""
    return place.holder if isinstance(place.holder, CONTAINERS) else attributes(place.holder)


def entries(held: Any) -> Iterator[Any]:
    """Yield what is in a container, also in tuples and the like, but for what its place tells."""
    if isinstance(held, NUMBERS):
        return
    for value in held.values() if isinstance(held, dict) else held:
        if type(value) in KNOWN:
            continue
        if not isinstance(value, FIXED):
            yield value
            yield from entries(_behind(value))
        elif len(value) <= MANY:
            yield from entries(value)


def _other(value: Any, instead: dict[int, Tensor]) -> Any:
    """Return the tensor that is there instead, of a tuple one that holds such; or the same."""
    if not isinstance(value, FIXED) or len(value) > MANY:
        return instead.get(id(value), value)
    inner = [_other(entry, instead) for entry in value]
    if all(a is b for a, b in zip(inner, value, strict=True)):
        return value
    kind: Any = type(value)
    if hasattr(kind, "n_sequence_fields"):  # of PyTorch, by values and indices
        return kind(inner)
    other = (tuple if isinstance(value, tuple) else frozenset).__new__(kind, inner)
    if hasattr(value, "__dict__"):
        vars(other).update(vars(value))
    return other


def is_array(value: Any) -> bool:
    """Say whether a value is an array of NumPy whose numbers are remembered."""
    small = type(value).__module__ == "numpy" and getattr(value, "nbytes", BYTES + 1) <= BYTES
    return small and hasattr(value, "setflags") and not value.dtype.hasobject


def again(
    places: Collection[Place], owners: Iterable[object], arguments: Mapping[str, Any]
) -> list[Place]:
    """Return what these hold now, and also what these places do, if nobody holds them."""
    now = look(owners, arguments)
    known = {id(place.holder) for place in now}
    gone = (place for place in places if id(place.holder) not in known)
    return now + [place._replace(content=copied(content(place))) for place in gone]


def put(places: Sequence[Place], instead: dict[int, Tensor]) -> None:
    """Make places hold what they held, with other tensors `instead` of those with these ids."""
    for place in reversed(places):  # a tuple that stands for another has the attributes of that
        now, held = content(place), place.content
        if not held and not now:
            continue
        if instead and isinstance(held, dict):
            held = {k: _other(v, instead) for k, v in held.items()}
        elif instead and isinstance(held, list | deque):
            held = [_other(v, instead) for v in held]
        elif instead and isinstance(held, set):
            held = {_other(v, instead) for v in held}
        if alike(now, held):
            continue
        if isinstance(now, NUMBERS):
            now[:] = held
        elif isinstance(place.holder, CONTAINERS):
            now.clear()
            (now.update if isinstance(now, dict | set) else now.extend)(held)
        else:
            put_attributes(place.holder, held)


def alike(one: Any, other: Any) -> bool:
    """Say whether two containers hold the same objects, in the same order."""
    if len(one) != len(other):
        return False
    if isinstance(one, (set, *NUMBERS)):
        return one == other
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return all(_same_key(k, name) and v is value for (k, v), (name, value) in pairs)
    return all(a is b for a, b in zip(one, other, strict=True))


def _same_key(one: Any, other: Any) -> bool:
    """Compare keys of a dictionary; tensors, as those of an optimiser's state, by identity."""
    return one is other or (not isinstance(one, Tensor) and bool(one == other))
