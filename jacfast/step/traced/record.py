"""Record the operations of a run, as they reach the devices: after autograd and autocast."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from jacfast.calling import rng_states
from jacfast.step.traced.graph import Call, Value, substitute, within
from jacfast.step.traced.refuse import Refused, check_call, reads_on_host
from jacfast.step.traced.unseen import Unwritten, check_read, read_by_address
from jacfast.step.traced.writes import aliased

ALIASES = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Let what is done inside the context be no part of a graph."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


class Recorder(TorchDispatchMode):
    """While active, every operation becomes a call in a graph, and is run.

    Tensors are known by their identity: the model is called as it stands. Whatever is neither an
    input nor made by a recorded operation would be the same in every later run, so it is refused.

    Attributes:
        inputs: the values that were given, in their order.
        calls: what has been called.
        constants: what the model's Python has made of numbers.
    """

    def __init__(
        self, inputs: Iterable[Tensor], fixed: Iterable[Tensor], device: torch.device
    ) -> None:
        super().__init__()
        self._known = WeakTensorKeyDictionary()
        self._shared = set[Value]()  # by several tensors
        self._unwritten = Unwritten()
        self.inputs: list[Value] = []
        self.calls: list[Call] = []
        self.constants: dict[Value, Tensor] = {}
        self._fixed = {t.untyped_storage().data_ptr() for t in fixed} - {0}
        for tensor in inputs:
            self.take(tensor)
        self._device = device
        self._random = rng_states(device)

    def take(self, tensor: Tensor) -> Value:
        """Take a tensor for one more input."""
        self._known[tensor] = value = Value(tensor)
        self._unwritten.forget(tensor)
        self.inputs.append(value)
        return value

    def value(self, tensor: Tensor) -> Value:
        """Return the value that a tensor stands for."""
        if type(tensor) not in (Tensor, nn.Parameter):
            raise Refused(f"a tensor of type {type(tensor).__name__}")
        value = self._known.get(tensor)
        if value is None:
            raise Refused(
                f"a tensor of shape {list(tensor.shape)} that is no input, parameter, buffer or "
                "attribute of a module, and was not made by PyTorch's operations in the call"
            )
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # what is looked at here is not the model's doing
            return self._record(func, args, kwargs or {})

    def _record(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if func is torch.ops.aten.lift_fresh.default:  # torch.tensor([...])
            return self._lift(args[0])
        self._check_random()
        check_call(func, args, kwargs, self._fixed)
        self._unwritten.check_read(func, args, kwargs)
        given = substitute((args, kwargs), Tensor, self.value)
        if torch.Tag.inplace_view in func.tags and given[0][0] in self._shared:
            raise Refused(f"a change of a tensor's shape in place, {func}")
        returned = func(*args, **kwargs)
        self._unwritten.note(func, args, kwargs, returned)
        if func in ALIASES:
            self._known[returned] = given[0][0]
            self._shared.add(given[0][0])
            return returned
        results = self._results(returned)
        self.calls.append(Call(func, given[0], given[1], results, _acts(func, args, kwargs)))
        self._random = rng_states(self._device) if _draws(func) else self._random
        return returned

    def _lift(self, tensor: Tensor) -> Tensor:
        constant, copy = Value(tensor), Value(tensor)
        self.constants[constant] = tensor.clone()
        self._known[tensor] = copy
        self._unwritten.forget(tensor)
        self.calls.append(Call(torch.ops.aten.clone.default, (constant,), {}, copy, False))
        return tensor

    def _results(self, returned: Any) -> Value | list[Value | None] | None:
        if isinstance(returned, list | tuple):
            return [self._result(one) for one in returned]
        return self._result(returned)

    def _result(self, returned: Any) -> Value | None:
        if not isinstance(returned, Tensor) or returned in self._known:  # an argument of the call
            return None
        if type(returned) is not Tensor or returned.layout != torch.strided:
            raise Refused(f"a tensor of type {type(returned).__name__}, layout {returned.layout}")
        self._known[returned] = value = Value(returned)
        return value

    def _check_random(self) -> None:
        if not all(map(torch.equal, self._random, rng_states(self._device))):
            raise Refused(
                "random numbers that are set or drawn in the call, but by no operation (a fork of "
                "the generator, gradient checkpointing)"
            )

    def finish(self, outputs: Iterable[Tensor | None]) -> list[Value | None]:
        """Return the values of these; check them, and what has happened since the last call."""
        self._check_random()
        for tensor in within(list(outputs), Tensor):
            self._unwritten.check(tensor)
        return [None if one is None else self.value(one) for one in outputs]

    def check_read(
        self, func: Callable, args: tuple, kwargs: dict[str, Any], found: Any, first: int
    ) -> None:
        """Refuse a function whose calls, from the `first` on, do not show what it reads."""
        given = map(self._known.get, read_by_address(func, args, kwargs))
        values = map(self._known.get, within(found, Tensor))
        check_read(func, given, [v for v in values if v is not None], self.calls[first:])


class Watch(TorchFunctionMode):
    """While active, functions that read values of tensors past every operation are refused.

    So are those that hand them, or the memory, to Python.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        reads_on_host(func)
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            return self._grad(*args, **kwargs)
        first = len(self._recorder.calls)
        found = func(*args, **kwargs)
        self._recorder.check_read(func, args, kwargs, found, first)
        return found

    def _grad(self, outputs: Any, inputs: Any, grad_outputs: Any = None, **options: Any) -> Any:
        """Let backward passes be watched, too: a mode is off while it handles a call with tensors.

        Edges of the graph are none. Of what torch.func has wrapped, also after its transform has
        ended, they would be those of another graph.
        """
        several = isinstance(outputs, list | tuple) and isinstance(inputs, list | tuple)
        usual = not options.get("materialize_grads") and not options.get("is_grads_batched")
        if grad_outputs is None or not (several and usual) or _wrapped((*outputs, *inputs)):
            return torch.autograd.grad(outputs, inputs, grad_outputs, **options)
        with self:
            return torch.autograd.grad(_edges(outputs), _edges(inputs), grad_outputs, **options)


def _edges(tensors: Any) -> list[GradientEdge]:
    return [get_gradient_edge(t) if isinstance(t, Tensor) else t for t in tensors]


def _wrapped(tensors: Iterable[Any]) -> bool:
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return any(isinstance(one, Tensor) and wrapped(one) for one in tensors)


def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _acts(func: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Say whether an operation draws or writes."""
    changed, _ = aliased(func, args, kwargs)
    return _draws(func) or any(one is not None for one in changed)
