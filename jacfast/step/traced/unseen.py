"""What C++ does with tensors past every operation: integers that it reads, memory that it fills.

A function of PyTorch may take sizes, places or numbers out of a tensor by its address, and an
extension may fill what PyTorch has allocated. No operation shows it, so that a replay would have
the numbers of the recording, or none at all.
"""

import contextlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from jacfast.step.traced.graph import Call, Value, within
from jacfast.step.traced.refuse import Refused, reads_on_host
from jacfast.step.traced.writes import with_aliases

# what gives its result the shape or type of a tensor, whatever is in that
CONVOLUTION = torch.ops.aten.convolution_backward.default
SHAPES = {Tensor.expand_as, Tensor.view_as, Tensor.reshape_as, Tensor.type_as, Tensor.to}
MADE_LIKE = {Tensor.new_tensor, Tensor.new}  # a tensor of the type of the first argument


def read_by_address(func: Callable, args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the arguments that C++ may read: integers, for sizes; in lists any, for numbers."""
    return [
        tensor
        for one in (*args[func in MADE_LIKE :], *kwargs.values())
        for tensor in within(one, Tensor)
        if tensor.numel() and (_whole(tensor) or isinstance(one, list | tuple))
    ]


def check_read(
    func: Callable, given: Iterable[Value | None], found: list[Value], did: list[Call]
) -> None:
    """Refuse a function in C++ that was `given` what it may read, and showed it to no operation.

    `did` is what it called, `found` what it returned. An operation that makes integers for nobody
    (a contiguous copy) shows them to none.
    """
    if isinstance(func, types.FunctionType) or func in SHAPES or not found:
        return
    shown: set[Value | None] = set(found)
    for call in reversed(did):
        in_vain = isinstance(call.results, Value) and not call.acts and _whole(call.results.like)
        if not in_vain or call.results in shown:
            shown.update(call.reads())
    if any(value not in shown for value in given):
        raise Refused(f"shapes or control flow that depend on values, {func.__name__}")


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Refuse what hands over a tensor's memory, and no mode is told of: a profiler is.

    Where another one is at work already, it stays.
    """
    if sys.getprofile() is not None:
        yield
        return

    def look(_frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and function is to_dlpack:
            reads_on_host(function)

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


def _whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


class Unwritten:
    """Memory that operations have allocated, and that none has written to."""

    def __init__(self) -> None:
        self._places = set[int]()

    def check_read(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Refuse an operation that reads such memory; views and shapes read none."""
        if not self._places or _by_shape(func):
            return
        idle = set[int]()
        if func is CONVOLUTION:  # reads the input for the weight's gradient alone, and so on
            idle = {1 + i for i, other in enumerate((1, 0)) if not args[10][other]}
        elif kwargs.get("beta") == 0:  # of addmm and its like: not even NaN counts there
            idle = {0}
        for place, (alias, value) in enumerate(with_aliases(func, args, kwargs)):
            if alias is None and place not in idle:  # else written to, or viewed
                for tensor in within(value, Tensor):
                    self.check(tensor)

    def check(self, tensor: Tensor) -> None:
        """Refuse a tensor whose memory no operation has written to."""
        if _place(tensor) in self._places:
            raise Refused(
                f"an empty tensor of shape {list(tensor.shape)} that no operation of PyTorch fills"
            )

    def note(self, func: Any, args: tuple, kwargs: dict[str, Any], returned: Any) -> None:
        """Note what an operation has allocated, and what it has written to."""
        if _name(func).removeprefix("new_").startswith("empty"):
            self._places |= {_place(tensor) for tensor in within(returned, Tensor)} - {0}
        elif self._places:
            views = any(one.alias_info is not None for one in func._schema.returns)
            written = [] if views else [returned]  # memory that was another tensor's before
            for alias, value in with_aliases(func, args, kwargs):
                written += [value] if alias is not None and alias.is_write else []
            self.forget(written)

    def forget(self, tensors: Any) -> None:
        """Take it that there is something in these, which may lie where others have been freed."""
        self._places -= {_place(tensor) for tensor in within(tensors, Tensor)}


def _place(tensor: Tensor) -> int:
    """Return where a tensor's memory is; 0 where it has none, as zeros of autograd's own."""
    return 0 if tensor._is_zerotensor() else tensor.untyped_storage().data_ptr()


def _name(func: Any) -> str:
    return func.overloadpacket.__name__


def _by_shape(func: Any) -> bool:
    words = _name(func).split("_")
    return words[0] == "new" or words[-1] == "like"
