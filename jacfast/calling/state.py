"""What a call changes in a model beside its outputs.

A model may change with every call: power iterations of spectral_norm, running statistics, counters,
moving averages, features kept in an attribute. `State` remembers what its modules hold, to see
whether a call changed it, and to let a second pass begin and end where the first one did.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from jacfast.calling.anew import weight_of
from jacfast.calling.arguments import Arguments
from jacfast.calling.attributes import attributes
from jacfast.calling.copies import copies
from jacfast.calling.held import surely
from jacfast.calling.moved import SMALL, check_kept, differ, keep, stand_ins, version
from jacfast.calling.places import CONTAINERS, NUMBERS, again, content, entries, is_array, look, put
from jacfast.calling.sources import Sources, is_source

NONE = object()


class State:
    """What the modules of a model hold: attributes of any kind, and the values of tensors.

    Tensors are buffers, plain attributes, and parameters of up to `copied` entries; larger ones are
    watched, not copied. What is held in containers, and in objects of the user's own, is remembered
    with them, four deep (`places`), the numbers of small NumPy arrays, and where random generators
    of the model's own are. The modules and generators in `but` are left out, and `frozen`
    modules have the buffers that the first pass leaves; the further `arguments` of a call are
    looked into as well, and what an object `beside` the model holds, as a penalty of one's own. To
    be used once: for a second pass, or to undo the first.
    """

    def __init__(
        self,
        model: nn.Module | None,
        but: Collection[Any] = (),
        copied: int = SMALL,
        arguments: Arguments | None = None,
        beside: object = None,
        frozen: Collection[nn.Module] = (),
    ) -> None:
        held_beside = () if beside is None else attributes(beside).values()
        wholes = [model, *(value for value in held_beside if isinstance(value, nn.Module))]
        modules = [one for whole in wholes if whole is not None for one in whole.modules()]
        self._modules = [module for module in modules if module not in but]
        self._owners = [*self._modules, *(() if beside is None else (beside,))]
        self._arguments = arguments.named if arguments else {}
        found = look(self._owners, self._arguments)
        settled = {id(module._buffers) for module in frozen}
        self._places = [place for place in found if id(place.holder) not in settled]
        self._settled = [place for place in found if id(place.holder) in settled]
        # tensor, copy and version by the tensor's id, which may have several owners
        self._copies: dict[int, tuple[Tensor, Tensor, int]] = {}
        self._arrays: dict[int, tuple[Any, Any]] = {}
        tensors, sources = dict[int, Tensor](), dict[int, Any]()
        held = [value for place in self._places for value in entries(place.content)]
        held += entries(self._arguments)
        inside = [module for module in self._modules if id(module._buffers) not in settled]
        # by themselves as well: the place of a ScriptModule does not show its buffers
        held += [buffer for module in inside for buffer in module._buffers.values()]
        for value in held:
            plain = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
            if plain and not value.requires_grad:
                tensors[id(value)] = value
            elif is_array(value):
                self._arrays[id(value)] = value, value.copy()
            elif is_source(value) and value not in but:
                sources[id(value)] = value
        for one, values in zip(tensors.values(), copies(tensors.values()), strict=True):
            self._copies[id(one)] = one, values, version(one)
        self._sources = Sources(sources.values())
        scripted = [m for m in self._modules if isinstance(m, torch.jit.ScriptModule)]
        self._inside = [tensor for module in scripted for tensor in module.buffers()]
        fixed = [parameter for module in scripted for parameter in module.parameters()]
        self._fixed = set(map(id, fixed))
        out = {id(p) for one in but if isinstance(one, nn.Module) for p in one.parameters()}
        self._kept = keep((p for p in [*held, *fixed] if id(p) not in out), copied)

    def changed(self) -> str | None:
        """Name something that is another or was written to; None if there is nothing.

        Of tensors on a GPU values are not looked at: it need not be waited for, and its graphs can
        be captured.
        """
        if found := self._other(self._same, lambda _: set()):
            return found
        if self._sources.moved():
            return "a random generator"
        written = any(_written(*known) for known in self._copies.values())
        written = written or any(one.changed for one in self._kept.values())
        return "a tensor" if written else None  # in a set, or of a ScriptModule

    def exchanged(self) -> str | None:
        """Name something that is another object, or holds another one; None if there is nothing.

        Writes to tensors are none, nor are weights that hooks of torch.nn.utils compute.
        """
        return self._other(_identical, computed)

    def _other(
        self, same: Callable[[Any, Any], bool], but: Callable[[Any], set[str]]
    ) -> str | None:
        """Name an entry that is not the `same`, `but` some of its holder's, or an array."""
        for place in self._places:
            now, held = content(place), place.content
            if not isinstance(held, dict):
                if not _pairwise(same, held, now):
                    return f"{place.name} of a {place.owner}"
                continue
            for key in (now.keys() | held.keys()) - but(place.holder):
                if not same(held.get(key, NONE), now.get(key, NONE)):
                    return f"{place.at(key)} of a {place.owner}"
        return "a NumPy array" if any(map(_differs, self._arrays.values())) else None

    def undo(self) -> None:
        """Put all back, after an error, but what is written to a parameter without a copy."""
        _write(self._copies.values())
        for one in self._kept.values():
            one.undo()
        put(self._places, {})
        _fill(self._arrays.values())
        self._sources.put()

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Begin here again inside the context, and end as it was before the context.

        Inside, tensors are copies, so that those which a graph has kept stay as they are; a
        ScriptModule does not let them be exchanged, and is written to, as NumPy arrays are. The
        gradient of a parameter inside is that of the one it stands for (`stood_for`).

        Raises:
            ValueError: a parameter without a copy has been written to, before or inside.
        """
        instead: dict[int, Tensor] = {key: value for key, (_, value, _) in self._copies.items()}
        moved = (one for key, one in self._kept.items() if key not in self._fixed and one.changed)
        instead |= stand_ins(moved)
        others = [one for key, one in self._kept.items() if key not in instead]
        check_kept(others)
        now = again(self._places, self._owners, self._arguments)
        settled = [place._replace(content=content(place).copy()) for place in self._settled]
        left = [one for place in settled for one in place.content.values() if one is not None]
        instead |= {id(one): values for one, values in zip(left, copies(left), strict=True)}
        inside = [(one, one.clone(), version(one)) for one in self._inside]
        arrays = [(one, one.copy()) for one, _ in self._arrays.values()]
        sources = self._sources.now()

        def back() -> None:
            _write(inside)
            put(now, {})
            _fill(arrays)
            sources.put()
            for one in others:
                if one.changed:
                    one.undo()

        try:
            _write(self._copies[id(one)] for one in self._inside)
            put([*self._places, *settled], instead)
            _fill(self._arrays.values())
            self._sources.put()
            yield
            check_kept(one for one in others if one.values is None)
        finally:
            surely(back)

    def _same(self, before: Any, now: Any) -> bool:
        if isinstance(before, Tensor) and isinstance(now, Tensor):
            if before is now:
                known, kept = self._copies.get(id(before)), self._kept.get(id(before))
                written = known is not None and _written(*known)
                return not written and (kept is None or not kept.changed)
            # a weight that is computed from others in every call
            return now.grad_fn is not None and now.shape == before.shape
        if isinstance(before, CONTAINERS) or isinstance(now, CONTAINERS):
            return before is now  # what is in it is a place of its own
        if type(before) is not type(now):
            return False
        if isinstance(before, tuple):
            return len(before) == len(now) and all(map(self._same, before, now))
        try:
            return before is now or bool(before == now)
        except Exception:  # whatever a user's objects make of ==
            return False


def computed(holder: object) -> set[str]:
    """Return the names of weights of a module that hooks of torch.nn.utils compute in each call."""
    hooks = holder._forward_pre_hooks.values() if isinstance(holder, nn.Module) else ()
    return {weight_of(hook) for hook in hooks}


def _identical(before: Any, now: Any) -> bool:
    if before is now:
        return True
    plain = type(before) is type(now) and isinstance(before, bool | int | float | str)
    return plain and before == now


def _pairwise(same: Callable[[Any, Any], bool], before: Any, now: Any) -> bool:
    """Compare two containers but dictionaries, entry by entry."""
    if isinstance(before, (set, *NUMBERS)):
        return before == now
    return len(before) == len(now) and all(map(same, before, now))


def _differs(array: tuple[Any, Any]) -> bool:
    one, before = array
    return one.tobytes() != before.tobytes()


def _written(one: Tensor, before: Tensor, then: int) -> bool:
    """Say whether a tensor has been written to since.

    Observers of quantization write past its version, and resize it; which is seen in small tensors
    on a CPU.
    """
    if version(one) != then or one.shape != before.shape:
        return True
    return one.numel() <= SMALL and differ(one, before)


def _fill(arrays: Iterable[tuple[Any, Any]]) -> None:
    """Give NumPy arrays the numbers of these copies."""
    for one, values in arrays:
        if one.flags.writeable:
            one[...] = values


def _write(values: Iterable[tuple[Tensor, Tensor, int]]) -> None:
    """Give tensors their values back, if they have been written to."""
    with torch.no_grad():
        for tensor, value, then in values:
            if _written(tensor, value, then):
                if tensor.shape != value.shape:
                    tensor.resize_(value.shape)
                tensor.copy_(value)
