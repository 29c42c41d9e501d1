"""What cannot be traced: each with its reason, for the warning with which it runs eager."""

import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._device import DeviceContext
from torch.utils.dlpack import to_dlpack

import jacfast.calling.parts as parts
from jacfast.calling.anew import of_torch
from jacfast.calling.contexts import hooked
from jacfast.ops.lives import transformed
from jacfast.step.traced.graph import within
from jacfast.step.traced.writes import aliased


class Refused(Exception):
    """A call that cannot be traced; the message says what is in it."""


# what gives Python values or memory of a tensor, past every operation
READS = {
    *(Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr, Tensor.untyped_storage),
    *(Tensor.storage, Tensor.__dlpack__, Tensor.set_, Tensor.backward, torch.autograd.backward),
    to_dlpack,
    Tensor.data.__set__,  # type: ignore[attr-defined]
    Tensor.__cuda_array_interface__.__get__,
}
# what makes a number of a tensor, in torch.Tensor([...]) past every operation
NUMBERS = {
    *(Tensor.item, Tensor.__index__, Tensor.__int__, Tensor.__float__, Tensor.__complex__),
    Tensor.__bool__,
}
WAITS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
# the length of what it returns depends on values, and no tag says so
PACK = torch.ops.aten._pack_padded_sequence.default
INDEX = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default)
INDEX_IN_PLACE = torch.ops.aten.index_put_.default


def hindrance() -> str | None:
    """Say what, around this call, keeps it from being traced."""
    if transformed() or torch.is_inference_mode_enabled():
        return "torch.func or inference_mode"
    if _has_any_global_hook():
        return "hooks on all modules"
    if hooked():
        return "hooks on saved tensors"
    if torch.is_anomaly_enabled():  # it looks at every gradient for NaN
        return "torch.autograd.detect_anomaly"
    if nn.utils.parametrize._cache_enabled:
        return "torch.nn.utils.parametrize.cached()"
    for mode in modes():
        if not isinstance(mode, DeviceContext):
            return f"a mode, {type(mode).__name__}"
    return None


def check_module(module: nn.Module) -> None:
    """Refuse a module whose call runs what no graph holds."""
    if isinstance(module, torch.jit.ScriptModule):
        raise Refused("a module of torch.jit")
    for kind in parts.HOOKS:
        for hook in getattr(module, kind).values():
            if not of_torch(hook):
                raise Refused(f"a hook on a {type(module).__name__}")


def check_object(thing: Any) -> None:
    """Refuse what cannot be asked for its state, and changes whenever it is used."""
    kind = type(thing)
    hidden = hasattr(kind, "__next__") and not hasattr(thing, "__dict__")
    if hidden and kind not in weakref.ProxyTypes:
        raise Refused(f"an iterator among what the model holds or is given, a {kind.__name__}")
    if isinstance(thing, random.SystemRandom):
        raise Refused("random numbers of Python or NumPy")


def check_call(func: Any, args: tuple, kwargs: dict[str, Any], fixed: set[int]) -> None:
    """Refuse an operation that waits for the device, or changes what a trace cannot put back."""
    name = str(func)
    if func.namespace in ("c10d", "_c10d_functional"):
        raise Refused(f"communication with other processes, {name}")
    waits = func is PACK or any(tag in func.tags for tag in WAITS)
    if waits and not _by_numbers(func, args):
        raise Refused(f"shapes or control flow that depend on values, {name}")
    if next(within((args, kwargs), torch.UntypedStorage), None) is not None:
        raise Refused(f"values or memory of a tensor in Python's hands, {name}")
    given = list(within((args, kwargs), Tensor))
    if func is INDEX_IN_PLACE and given[0].is_cuda and not _by_numbers(func, args):
        raise Refused(f"a mask that the host must count, {name}")
    moved = kwargs.get("device")
    if moved is not None and given and torch.device(moved).type == "cpu" and given[0].is_cuda:
        raise Refused(f"a copy from the device to the host, {name}")
    if isinstance(kwargs.get("generator"), torch.Generator):
        raise Refused("a torch.Generator of the model's own")
    changed, _ = aliased(func, args, kwargs)
    if not changed:
        return
    if len({t.device.type for t in given if t.dim()}) > 1:
        raise Refused(f"a copy between devices, {name}")
    if any(t.untyped_storage().data_ptr() in fixed for t in within(changed, Tensor)):
        raise Refused(f"a change of x, an argument, shared memory or a parameter in place, {name}")


def reads_on_host(func: Callable) -> None:
    """Refuse a function that gives a tensor's values or memory to Python."""
    if func in READS:
        raise Refused(f"values or memory of a tensor in Python's hands, {func.__name__}")
    if func in NUMBERS:
        raise Refused(f"shapes or control flow that depend on values, {func.__name__}")


def _by_numbers(func: Any, args: tuple) -> bool:
    """Say whether an indexing is one by numbers, whose shape is known, and not by a mask."""
    if func not in (*INDEX, INDEX_IN_PLACE):
        return False
    return all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in args[1])


def modes() -> Iterator[Any]:
    """Yield the modes that are active in this thread."""
    yield from torch.overrides._get_current_function_mode_stack()
    yield from torch.utils._python_dispatch._get_current_dispatch_mode_stack()
