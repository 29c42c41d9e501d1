"""Run a graph of operations as a CUDA graph: one launch in the place of all of theirs."""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jacfast.step.traced.graph import Graph

STATIC = "jacfast_static"  # attribute of what a captured graph has made for another
WARM = 3  # runs before the capture, in which libraries choose and set up what they need


class Captured:
    """A graph as a CUDA graph, which is captured at its first run.

    Parameters, and what another captured graph has made, are read where they are, and captured anew
    if they have moved; all else is copied to where it was at the capture, and back if it is written
    to. The first `outside` outputs are copies; the others, for the backward graph, are written over
    by the next replay. Random numbers are fresh at each replay.
    """

    def __init__(self, graph: Graph, outside: int) -> None:
        self._run, self._outside = graph.as_function(), outside
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: Sequence[Tensor] = ()
        self._written: list[int] = []
        self._lock = threading.Lock()

    def __call__(self, given: list[Tensor]) -> Sequence[Tensor]:
        """Run it."""
        with self._lock:
            if self._graph is None or self._moved(given):
                self._capture(given)
            assert self._graph is not None
            for tensor, own in zip(given, self._inputs, strict=True):
                if tensor.data_ptr() != own.data_ptr():
                    own.copy_(tensor)
            self._graph.replay()
            for place in self._written:
                given[place].copy_(self._inputs[place])
            given.clear()
            copies = [one if one is None else one.clone() for one in self._outputs[: self._outside]]
            return [*copies, *self._outputs[self._outside :]]

    def _moved(self, given: list[Tensor]) -> bool:
        pairs = zip(given, self._inputs, strict=True)
        return any(_stays(t) and t.data_ptr() != own.data_ptr() for t, own in pairs)

    def _capture(self, given: list[Tensor]) -> None:
        device = given[0].device
        self._inputs = [t.detach() if _stays(t) else t.detach().clone() for t in given]
        values = [None if isinstance(t, nn.Parameter) else t.detach().clone() for t in given]
        versions = [own._version for own in self._inputs]
        state, side = torch.cuda.get_rng_state(device), torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM):
                self._run(list(self._inputs))
        torch.cuda.current_stream(device).wait_stream(side)
        torch.cuda.set_rng_state(state, device)
        self._written = []
        for place, own in enumerate(self._inputs):
            value = values[place]
            # batch-norm writes without a new version
            if value is None or (own._version == versions[place] and torch.equal(own, value)):
                continue
            own.copy_(value)
            if own.data_ptr() != given[place].data_ptr():
                self._written.append(place)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = self._run(list(self._inputs))
        for tensor in self._outputs[self._outside :]:
            setattr(tensor, STATIC, True)


def _stays(tensor: Tensor) -> bool:
    """Say whether a tensor is expected where it was."""
    return isinstance(tensor, nn.Parameter) or hasattr(tensor, STATIC)
