"""Run a graph of operations as a CUDA graph: one launch in the place of all of theirs."""

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jacfast.calling import Draws, stood_for
from jacfast.step.traced.graph import Graph
from jacfast.step.traced.writes import written

STATIC = "jacfast_static"  # attribute of what a captured graph has made for another
WARM = 3  # runs before the capture, in which libraries choose and set up what they need
_ONE = threading.Lock()  # a process can make one capture at a time


class Capture(NamedTuple):
    """A CUDA graph, with what it reads and what it has made."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: Sequence[Tensor]


class Captured:
    """A graph as a CUDA graph, which is captured at its first run; all tensors are on one GPU.

    Parameters, and what another captured graph has made, are read where they are, and captured anew
    if they have moved; all else is copied to where it was at the capture, and back if it is written
    to. The first `outside` outputs are copies; the others, for the backward graph, are written over
    by the next replay. Random numbers are fresh at each replay.
    """

    def __init__(self, graph: Graph, outside: int) -> None:
        self._run, self._outside, self._written = graph.as_function(), outside, written(graph)
        self._made: Capture | None = None
        self._lock = threading.Lock()

    def __call__(self, given: list[Tensor]) -> Sequence[Tensor]:
        """Run it."""
        with self._lock:
            if self._made is None or _moved(given, self._made.inputs):
                self._made = None  # its memory is free for the next, or if that fails
                with _ONE:
                    self._made = self._capture(given)
            graph, inputs, outputs = self._made
            for tensor, own in zip(given, inputs, strict=True):
                if tensor.data_ptr() != own.data_ptr():
                    own.copy_(tensor)
            graph.replay()
            for place in self._written:
                if given[place].data_ptr() != inputs[place].data_ptr():
                    given[place].copy_(inputs[place])
            given.clear()
            copies = [one if one is None else one.clone() for one in outputs[: self._outside]]
            return [*copies, *outputs[self._outside :]]

    def _capture(self, given: list[Tensor]) -> Capture:
        """Run it without a trace, then capture it, on a stream of its own of the tensors' GPU."""
        device = given[0].device
        inputs = [t.detach() if _stays(t) else t.detach().clone() for t in given]
        # what is read where it is must be as it was when the graph runs
        before = {i: given[i].clone() for i in self._written if _stays(given[i])}
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        current = torch.cuda.current_stream(device)
        side.wait_stream(current)
        try:
            with torch.cuda.device(device), torch.cuda.stream(side):
                with Draws(device).again():
                    for _ in range(WARM):
                        self._run(list(inputs))
                for place, value in before.items():
                    inputs[place].copy_(value)
                # "global" fails at what other threads do, as when they pin memory for a DataLoader
                with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    outputs = self._run(list(inputs))
        finally:
            current.wait_stream(side)  # which may still write to what is freed here
        for tensor in outputs[self._outside :]:
            setattr(tensor, STATIC, True)
        return Capture(graph, inputs, outputs)


def _moved(given: list[Tensor], inputs: list[Tensor]) -> bool:
    pairs = zip(given, inputs, strict=True)
    return any(_stays(t) and t.data_ptr() != own.data_ptr() for t, own in pairs)


def _stays(tensor: Tensor) -> bool:
    """Say whether a tensor is expected where it was; stand-ins of parameters are new each time."""
    own = isinstance(tensor, nn.Parameter) and stood_for(tensor) is tensor
    return own or hasattr(tensor, STATIC)


def elsewhere(graphs: Iterable[Graph], device: torch.device) -> str | None:
    """Name a tensor of the graphs that is not on `device`, and what has it; None if none is.

    A capture would stop at a copy of it, and keep the value of a single number for all replays.
    """
    for graph in graphs:
        places = [(str(call.function), [*call.reads(), *call.makes()]) for call in graph.calls]
        returned = [value for value in graph.outputs if value is not None]
        for place, held in [*places, ("returned", returned)]:
            for value in held:
                if value.device != device:
                    return f"a tensor on {value.device} beside those on {device}, {place}"
    return None
