"""A stand-in for the part of torch.cuda that makes CUDA graphs, on the CPU.

What it stands for: what runs in a capture is not done, but noted, with the very tensors that it
reads and writes, and a replay does it again with these, wherever they are by then. A process makes
one capture at a time; a graph without a whole capture cannot be replayed; the end of a capture that
failed is an error, too, after which its stream stays the current one, as PyTorch leaves it.

What it does not: streams note whom they wait for, and nothing overtakes anything; nothing is freed
while a graph holds it; and whatever a GPU refuses to capture, or waits for, is done.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Noted = tuple[Any, tuple, dict, list]


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Noting(TorchDispatchMode):
    """Every operation with its tensors, and what these held before the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Noted] = []
        self.before: dict[int, tuple[Any, Any]] = {}
        self.made: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for one in tensors((args, kwargs)):
            if memory(one) not in {*self.made, *self.before}:
                self.before[memory(one)] = one.untyped_storage(), one.untyped_storage().clone()
        found = func(*args, **(kwargs or {}))
        for one in tensors(found):
            if memory(one) not in self.before:
                self.made[memory(one)] = one
        self.calls.append((func, args, kwargs or {}, tensors(found)))
        return found

    def undo(self) -> None:
        """Leave everything as it was, and what was made without a value."""
        for storage, values in self.before.values():
            storage.copy_(values)
        for one in self.made.values():
            one.untyped_storage().fill_(255)


class CUDAGraph:
    calls: list[Noted] | None = None

    def replay(self) -> None:
        if self.calls is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        for func, args, kwargs, made in self.calls:
            for own, new in zip(made, tensors(func(*args, **kwargs)), strict=True):
                if memory(own) != memory(new):
                    own.copy_(new)


class Stream:
    def __init__(self, device: Any) -> None:
        self.device = device
        self.awaited: list[Stream] = []

    def wait_stream(self, other: "Stream") -> None:
        assert other is not self
        self.awaited.append(other)


class Cuda:
    """The calls by their names in torch.cuda; `captures`: stream, device and mode of each."""

    def __init__(self, device: Any = None) -> None:
        self.at: Any = device
        self.default = self.current = Stream(device)
        self.captures: list[tuple[Stream, Any, str]] = []
        self.underway = False
        self.CUDAGraph, self.Stream = CUDAGraph, Stream

    def current_stream(self, device: Any) -> Stream:
        return self.current

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        self.at, before = device, self.at
        try:
            yield
        finally:
            self.at = before

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.current, before = stream, self.current
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(
        self, graph: CUDAGraph, stream: Stream, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        assert not self.underway, "a process makes one capture at a time"
        self.underway, self.current, before = True, stream, self.current
        self.captures.append((stream, self.at, capture_error_mode))
        noting = Noting()
        try:
            with torch.random.fork_rng(devices=[]), noting:
                yield
        except BaseException as error:
            raise RuntimeError("operation failed due to a previous error during capture") from error
        finally:
            noting.undo()
            self.underway = False
        graph.calls, self.current = noting.calls, before

    def put_into(self, monkeypatch: Any) -> "Cuda":
        """Let these calls stand in torch.cuda."""
        for name in ("CUDAGraph", "Stream", "current_stream", "device", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        return self
