"""What a trace depends on: the key by which a later call finds it, and the tensors it is given."""

import functools
import sys
import types
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from jacfast.calling.attributes import FOREIGN, attributes, of_user
from jacfast.calling.sources import is_source
from jacfast.calling.state import computed
from jacfast.calling.tensors import plain
from jacfast.step.traced.objects import Same, content, opaque
from jacfast.step.traced.refuse import Refused, check_module, check_object, modes

SIMPLE = frozenset(
    (
        *(int, float, bool, complex, str, bytes, types.NoneType, types.EllipsisType),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    )
)
CONTAINERS = (list, tuple, deque, dict, set, frozenset)
FIXED = frozenset((types.FunctionType, types.ModuleType))
EVERY = frozenset(vars(nn.Module()))  # attributes of every module
PRECISIONS = (("mkldnn", "matmul"), ("mkldnn", "conv"), ("cuda", "matmul"), ("cuda", "conv"))
BASES = {"torch", "jacfast", *sys.stdlib_module_names}  # packages whose classes stay as they are
# what Python notes of a class
NOTES = frozenset(
    (
        *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__"),
        *("__dataclass_fields__", "__dataclass_params__", "__match_args__", "__slotnames__"),
        *("__firstlineno__", "__static_attributes__", "__annotate_func__", "__orig_bases__"),
        *("__parameters__", "__abstractmethods__"),
    )
)
DEPTH = 3  # of objects in attributes: their attributes, theirs, and so on; then the identity


class Look:
    """A look at whatever a run depends on.

    Attributes:
        key: everything but the values of tensors, to be compared.
        tensors: each tensor once, in the order in which they were met.
        sources: of random numbers, but for the default generators of PyTorch.
    """

    def __init__(self) -> None:
        self.key: list[Any] = []
        self.tensors: list[Tensor] = []
        self.sources: list[Any] = []
        self._seen: dict[int, int] = {}
        self._classes: dict[type, int] = {}  # by how deep they were looked into
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
            if depth and isinstance(thing, CONTAINERS) and of_user(kind):  # beside its entries
                self._at_names(attributes(thing), depth - 1)
                self._at_class(kind, depth - 1)

    def at_tensor(self, tensor: Tensor) -> None:
        """Note a tensor, and all of it but its values."""
        place = self._seen.get(id(tensor))
        if place is not None:  # the same as another
            self.key.append(place)
            return
        if not plain(tensor):
            raise Refused(f"a tensor of type {type(tensor).__name__}, layout {tensor.layout}")
        if tensor.is_conj() or tensor.is_neg():  # compiled code reads its memory as it is
            raise Refused("a tensor that is conjugated or negated by a mark (resolve_conj())")
        self._seen[id(tensor)] = len(self._seen)
        self.tensors.append(tensor)
        self.key += (tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        self.key.append(tensor.requires_grad)

    def _at_object(self, thing: Any, depth: int) -> None:
        if type(thing) in FIXED:
            self.key.append(Same(thing))
        elif isinstance(thing, nn.Module):
            self._at_module(thing)
        elif isinstance(thing, list | tuple | deque):
            self.key.append(len(thing))
            for one in thing:
                self.at(one, depth)
        elif isinstance(thing, dict | types.MappingProxyType):
            self._at_names(thing, depth)
        elif isinstance(thing, pytree.TreeSpec):
            self.key.append(thing)
        elif isinstance(thing, functools.partial):
            self.at((thing.func, thing.args, thing.keywords), depth)
        elif isinstance(thing, types.MethodType):
            self.at((thing.__self__, thing.__func__), depth)
        elif isinstance(thing, staticmethod | classmethod):
            self.at(thing.__func__, depth)
        elif isinstance(thing, types.BuiltinFunctionType | types.MethodWrapperType):
            self.key.append(Same(thing))
            self.at(thing.__self__, depth)
        elif isinstance(thing, set | frozenset):
            self._at_set(thing, depth)
        elif isinstance(thing, type):
            self.key.append(Same(thing))
            if depth and of_user(thing):
                self._at_class(thing, depth - 1)
        else:
            self._at_other(thing, depth)

    def _at_set(self, thing: Collection[Any], depth: int) -> None:
        if all(type(one) in SIMPLE for one in thing):
            self.key.append(frozenset(thing))
        else:
            self.at(list(thing), depth)

    def _at_other(self, thing: Any, depth: int) -> None:
        """Look at what an object of some other kind holds: numbers, attributes."""
        kind = type(thing)
        check_object(thing)
        held = None
        if is_source(thing):
            self.sources.append(thing)
        elif depth and not opaque(kind):
            held = attributes(thing) if of_user(kind) else getattr(thing, "__dict__", None)
        numbers = content(thing)
        known = of_user(kind) and held and not isinstance(thing, int | float | str | bytes)
        if numbers is not None:
            self.at(numbers, depth)
        elif not known or kind.__weakrefoffset__:  # else by what it holds: nobody is to hold it
            self.key.append(Same(thing))
        if held:
            self._at_names(held, depth - 1)
        if depth and of_user(kind):
            self._at_class(kind, depth - 1)

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
        self._at_class(type(module), DEPTH)

    def _at_class(self, kind: type, depth: int) -> None:
        """Look at the methods and attributes of a class, but not at torch's or Python's own."""
        if self._classes.get(kind, -1) >= depth:
            return
        for one in kind.__mro__:
            if self._classes.get(one, -1) >= depth:
                continue
            self._classes[one] = depth
            package = one.__module__.partition(".")[0]
            if package in BASES:
                continue
            inner = 0 if package in FOREIGN else depth
            for name, value in vars(one).items():
                if name not in NOTES:
                    self.key.append(name)
                    self.at(value, inner)
            self.key.append(None)

    def _at_names(self, held: Mapping[Any, Any], depth: int) -> None:
        self.key.append(len(held))
        for name, value in held.items():
            self.key.append(name if type(name) in SIMPLE else Same(name))
            self.at(value, depth)


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
