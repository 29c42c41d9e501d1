"""What a call changes in a model beside its outputs.

A model may change with every call: power iterations of spectral_norm, running statistics, counters,
moving averages, features kept in an attribute. `State` remembers what its modules hold, to see
whether a call changed it, and to let a second pass begin and end where the first one did.
"""

import contextlib
import copy
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CONTAINERS = (dict, list, set, deque)
NONE = object()


class State:
    """What the modules of a model hold: attributes of any kind, and the values of tensors.

    Tensors are buffers and plain attributes; the parameters are the optimiser's. Of containers, the
    entries are remembered, as they are. The modules in `but` are left out. To be used once: for a
    second pass, or to undo the first.
    """

    def __init__(self, model: nn.Module, but: Collection[nn.Module] = ()) -> None:
        self._held = [(module, _look(module)) for module in model.modules() if module not in but]
        # tensor, copy and version by the tensor's id, which may have several owners
        self._copies: dict[int, tuple[Tensor, Tensor, int]] = {}
        for module, _ in self._held:
            for tensor in (*module._buffers.values(), *vars(module).values()):
                plain = isinstance(tensor, Tensor) and not tensor.requires_grad
                if plain and id(tensor) not in self._copies:
                    self._copies[id(tensor)] = tensor, tensor.clone(), _version(tensor)
        scripted = [m for m, _ in self._held if isinstance(m, torch.jit.ScriptModule)]
        self._inside = [tensor for module in scripted for tensor in module.buffers()]

    def changed(self) -> str | None:
        """Name something that is another or was written to; None if there is nothing.

        Values are not looked at: a GPU need not be waited for, and its graphs can be captured.
        """
        for module, held in self._held:
            now, name = _look(module), type(module).__name__
            for key in now.keys() | held.keys():
                if not self._same(held.get(key, NONE), now.get(key, NONE)):
                    return f"{key} of a {name}"
        written = any(_version(one) != version for one, _, version in self._copies.values())
        return "a buffer" if written else None  # of a ScriptModule

    def exchanged(self) -> str | None:
        """Name something that is another object, or holds another one; None if there is nothing.

        Writes to tensors are none, nor are weights that hooks of torch.nn.utils compute.
        """
        for module, held in self._held:
            now = _look(module)
            for key in (now.keys() | held.keys()) - computed(module):
                if not _identical(held.get(key, NONE), now.get(key, NONE)):
                    return f"{key} of a {type(module).__name__}"
        return None

    def undo(self) -> None:
        """Put everything back, after an error."""
        _write(self._copies.values())
        _put(self._held, {})

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Begin here again inside the context, and end as it was before the context.

        Inside, tensors are copies, so that those which a graph has kept stay as they are; a
        ScriptModule does not let them be exchanged, and is written to.
        """
        now = [(module, _look(module)) for module, _ in self._held]
        inside = [(one, one.clone(), _version(one)) for one in self._inside]
        _write(self._copies[id(one)] for one in self._inside)
        _put(self._held, {key: value for key, (_, value, _) in self._copies.items()})
        try:
            yield
        finally:
            _write(inside)
            _put(now, {})

    def _same(self, before: Any, now: Any) -> bool:
        if isinstance(before, Tensor) and isinstance(now, Tensor):
            if before is now:
                _, _, version = self._copies.get(id(before), (None, None, _version(now)))
                return _version(now) == version
            # a weight that is computed from others in every call
            return now.grad_fn is not None and now.shape == before.shape
        if isinstance(before, Container) and isinstance(now, Container):
            return before.itself is now.itself and self._same(before.content, now.content)
        if type(before) is not type(now):
            return False
        if isinstance(before, dict):
            same = before.keys() == now.keys()
            return same and all(self._same(before[key], now[key]) for key in before)
        if isinstance(before, list | tuple | deque):
            return len(before) == len(now) and all(map(self._same, before, now))
        try:
            return before is now or bool(before == now)
        except Exception:  # whatever a user's objects make of ==
            return False


def computed(module: nn.Module) -> set[str]:
    """Return the names of weights that hooks of torch.nn.utils compute anew in each call."""
    hooks = module._forward_pre_hooks.values()
    return {getattr(hook, "name", getattr(hook, "_tensor_name", "")) for hook in hooks}


def _identical(before: Any, now: Any) -> bool:
    if isinstance(before, Container) and isinstance(now, Container):
        return before.itself is now.itself and _alike(before.content, now.content)
    if before is now:
        return True
    plain = type(before) is type(now) and isinstance(before, bool | int | float | str)
    return plain and before == now


class Container(NamedTuple):
    """An attribute with entries: the object itself, and a copy of what was in it."""

    itself: Any
    content: Any


def _look(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module, with copies of the containers among them."""
    held = vars(module)
    return {
        k: Container(v, copy.copy(v)) if isinstance(v, CONTAINERS) else v for k, v in held.items()
    }


def _put(seen: list[tuple[nn.Module, dict[str, Any]]], instead: dict[int, Tensor]) -> None:
    """Make modules hold what was seen, with other tensors `instead` of those with these ids."""
    for module, held in seen:
        own = vars(module)
        for name in own.keys() - held.keys():
            del own[name]
        for name, value in held.items():
            if not isinstance(value, Container):
                own[name] = instead.get(id(value), value)
                continue
            own[name], content = value
            if name == "_buffers":
                content = {k: instead.get(id(v), v) for k, v in content.items()}
            if not _alike(own[name], content):
                own[name].clear()
                fill = own[name].update if isinstance(content, dict | set) else own[name].extend
                fill(content)


def _alike(one: Any, other: Any) -> bool:
    """Say whether two containers hold the same objects."""
    if len(one) != len(other):
        return False
    if isinstance(one, set):
        return one == other
    if isinstance(one, dict):
        return all(k in one and one[k] is v for k, v in other.items())
    return all(a is b for a, b in zip(one, other, strict=True))


def _write(values: Iterable[tuple[Tensor, Tensor, int]]) -> None:
    """Give tensors their values back, if they are not of the version that had them."""
    with torch.no_grad():
        for tensor, value, version in values:
            if _version(tensor) != version:
                tensor.copy_(value)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
