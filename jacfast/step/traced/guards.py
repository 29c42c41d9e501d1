"""What a trace depends on: the key by which a later call finds it, and the tensors it is given."""

import functools
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from jacfast.calling.state import computed
from jacfast.step.traced.refuse import Refused, check_module, modes

SIMPLE = (
    *(int, float, bool, complex, str, bytes, types.NoneType, types.EllipsisType),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
EVERY = frozenset(vars(nn.Module()))  # attributes of every module
PRECISIONS = (("mkldnn", "matmul"), ("mkldnn", "conv"), ("cuda", "matmul"), ("cuda", "conv"))
DEPTH = 3  # of objects in attributes: their attributes, theirs, and so on; then the identity
# packages whose objects change in every step, and choose nothing in a model
OPAQUE = ("lightning", "pytorch_lightning", "torch.optim", "torch.utils.data")
BYTES = 1 << 16  # of an array whose numbers are looked at


class Look:
    """A look at whatever a run depends on.

    Attributes:
        key: everything but the values of tensors, to be compared.
        tensors: each tensor once, in the order in which they were met.
    """

    def __init__(self) -> None:
        self.key: list[Any] = []
        self.tensors: list[Tensor] = []
        self._seen: dict[int, int] = {}
        self._held: list[Any] = []  # whose id is its own meanwhile

    @classmethod
    def at_all(cls, things: Iterable[Any]) -> "Look":
        """Look at several things."""
        look = cls()
        for thing in things:
            look.at(thing)
        return look

    def at(self, thing: Any, depth: int = DEPTH) -> None:
        """Look at an argument, an attribute, a module."""
        kind, key = type(thing), self.key
        if kind in SIMPLE:
            key += (kind, thing)
        elif isinstance(thing, Tensor):
            self.at_tensor(thing)
        elif id(thing) in self._seen:
            key.append(self._seen[id(thing)])
        else:
            self._seen[id(thing)] = len(self._seen)
            self._held.append(thing)
            key.append(kind)
            self._at_object(thing, depth)

    def at_tensor(self, tensor: Tensor) -> None:
        """Note a tensor, and all of it but its values."""
        place = self._seen.get(id(tensor))
        if place is not None:  # the same as another
            self.key.append(place)
            return
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
            raise Refused(f"a tensor of type {type(tensor).__name__}, layout {tensor.layout}")
        self._seen[id(tensor)] = len(self._seen)
        self.tensors.append(tensor)
        self.key += (tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        self.key.append(tensor.requires_grad)

    def _at_object(self, thing: Any, depth: int) -> None:
        if isinstance(thing, nn.Module):
            self._at_module(thing)
        elif isinstance(thing, list | tuple | deque):
            self.key.append(len(thing))
            for one in thing:
                self.at(one, depth)
        elif isinstance(thing, dict):
            self._at_names(thing, depth)
        elif isinstance(thing, pytree.TreeSpec):
            self.key.append(thing)
        elif isinstance(thing, functools.partial):
            self.at((thing.func, thing.args, thing.keywords), depth)
        elif isinstance(thing, types.MethodType):
            self.at((thing.__self__, thing.__func__), depth)
        elif isinstance(thing, set | frozenset) and all(type(one) in SIMPLE for one in thing):
            self.key.append(frozenset(thing))
        else:
            self.key.append(Same(thing))
            self._inside(thing, depth)

    def _inside(self, thing: Any, depth: int) -> None:
        """Look at what an object of some other kind holds."""
        kind = type(thing)
        if kind.__module__ == "numpy" and getattr(thing, "nbytes", BYTES) < BYTES:
            self.key.append(thing.tobytes())
        if isinstance(thing, type | types.FunctionType | types.ModuleType):
            return
        if depth and hasattr(thing, "__dict__") and not kind.__module__.startswith(OPAQUE):
            self._at_names(vars(thing), depth - 1)

    def _at_module(self, module: nn.Module) -> None:
        if "_orig_mod" in module._modules:  # of torch.compile, whose own attributes say nothing
            self.at(module._modules["_orig_mod"])
            return
        check_module(module)
        key, held = self.key, vars(module)
        key += (module.training, len(held))
        for name, parameter in held["_parameters"].items():
            key.append(name)
            if parameter is not None:
                self.at_tensor(parameter)
        for name, buffer in held["_buffers"].items():
            key.append(name)
            if buffer is not None:
                self.at_tensor(buffer)
        skipped = EVERY | computed(module) if held["_forward_pre_hooks"] else EVERY
        for name, value in held.items():
            if name not in skipped:
                key.append(name)
                self.at(value)
        for name, inner in held["_modules"].items():
            key.append(name)
            self.at(inner)
        self._at_class(type(module))

    def _at_class(self, kind: type) -> None:
        """Look at the methods and attributes of a class that is not torch's own."""
        for one in kind.__mro__:
            if one.__module__.startswith("torch.") or id(one) in self._seen:
                break
            self._seen[id(one)] = len(self._seen)
            self._at_names(vars(one), 0)

    def _at_names(self, held: Mapping[Any, Any], depth: int) -> None:
        self.key.append(len(held))
        for name, value in held.items():
            self.key.append(name if type(name) in SIMPLE else Same(name))
            self.at(value, depth)


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


def settings(device: torch.device) -> tuple:
    """Return the settings of the process and the thread that choose operations."""
    other = device.type != "cpu" and torch.amp.is_autocast_available(device.type)
    kinds = ("cpu", device.type) if other else ("cpu",)
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        *((torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        *(torch._C._get_fp32_precision_getter(*one) for one in PRECISIONS),
        *(torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled),
        torch.backends.cudnn.deterministic,
        *(mode.device for mode in modes()),  # a default device is one
    )
