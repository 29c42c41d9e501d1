"""What a penalty has of its own: to learn, and to keep from one step to the next."""

import copy
import dataclasses
from collections.abc import Iterator

from torch import Tensor, nn

from jacfast.calling.attributes import attributes
from jacfast.calling.places import SIMPLE
from jacfast.calling.tree import tree
from jacfast.checks import keep
from jacfast.penalties.base import Penalty


def learned_by(penalty: Penalty | None) -> nn.Module:
    """Return a module of the parameters and modules that are fields of a penalty.

    But for modules that are frozen, a teacher say: nothing puts these into training mode.
    """
    found = nn.Module()
    for name, value in _fields(penalty):
        if isinstance(value, nn.Parameter):
            found.register_parameter(name, value)
        elif not (flags := [p.requires_grad for p in value.parameters()]) or any(flags):
            found.add_module(name, value)
    return found


def with_learned(penalty: Penalty | None, found: nn.Module) -> Penalty | None:
    """Return the penalty with what is in its module of `learned_by` now, sharded or loaded say."""
    now = {name: getattr(found, name, value) for name, value in _fields(penalty)}
    other = {name: now[name] for name, value in _fields(penalty) if now[name] is not value}
    if other:
        penalty = copy.copy(penalty)
        keep(penalty, **other)
    return penalty


def leaves_of(penalty: Penalty) -> Iterator[Tensor]:
    """Yield what has a gradient of its own: parameters, of modules too, and plain leaves."""
    for value in attributes(penalty).values():
        found = value.parameters() if isinstance(value, nn.Module) else (value,)
        yield from (t for t in found if isinstance(t, Tensor) and t.requires_grad and t.is_leaf)


def modules_in(penalty: Penalty) -> list[nn.Module]:
    """Return the modules that a penalty has, with all that are inside."""
    held = attributes(penalty).values()
    return [one for value in held if isinstance(value, nn.Module) for one in tree(value)]


def may_change(penalty: Penalty) -> bool:
    """Say whether one of the user's own may keep something from call to call (a running mean)."""
    if type(penalty).__module__.startswith("jacfast."):
        return False
    return any(
        not value.requires_grad if isinstance(value, Tensor) else type(value) not in SIMPLE
        for value in attributes(penalty).values()
    )


def _fields(penalty: Penalty | None) -> Iterator[tuple[str, nn.Parameter | nn.Module]]:
    for field in dataclasses.fields(penalty) if isinstance(penalty, Penalty) else ():
        value = getattr(penalty, field.name)
        if isinstance(value, nn.Parameter | nn.Module):
            yield field.name, value
