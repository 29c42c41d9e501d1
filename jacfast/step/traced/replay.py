"""Run the two graphs of a trace in place of a run, behind the same node."""

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from jacfast.calling import stood_for, without_autocast
from jacfast.step.draw import penalised_count
from jacfast.step.node import Node
from jacfast.step.pending import AGAIN
from jacfast.step.traced.backends import Runner, runner
from jacfast.step.traced.graph import Value
from jacfast.step.traced.guards import Look
from jacfast.step.traced.missing import without
from jacfast.step.traced.trace import Slot, Trace

if TYPE_CHECKING:
    from jacfast.step.step import Step

CHANGED = (
    "a tensor of shape {} that the backward pass of forward_with_penalty needs has been modified "
    "by an inplace operation since the call; it is at version {}, expected version {} instead: "
    "call backward before the optimiser's step, or change a copy"
)


class Plan:
    """A trace and what runs its graphs."""

    def __init__(self, trace: Trace, backend: str) -> None:
        self.trace, self.backend = trace, backend
        self.forward = runner(backend, trace.forward, trace.first)
        self.late = None if trace.backward is None else Late(trace, backend)
        self._last: weakref.ref[Replay] | None = None

    def __call__(
        self, step: "Step", look: Look, x: Tensor, y: Tensor | None, around: Any
    ) -> tuple[Any, Tensor]:
        """Return what the run returns, for the tensors of a look."""
        penalty, trace = step.penalty, self.trace
        assert penalty is not None
        penalty.check(trace.outputs, y)
        drawn: list[Any] = [what(penalty, step.generator) for what in trace.draws]
        tensors = [*look.tensors, *drawn]
        forward, late = self._runners()
        with around(), torch.no_grad(), without_autocast(x.device):
            made = forward([tensors[place] for place in trace.takes])
        total, *values = made[: 1 + trace.values]
        if late is not None:
            kept = [*(tensors[place] for place in trace.held), *made[trace.first :]]
            replay = Replay(late, kept, x.device)
            self._last = weakref.ref(replay)
            trained = (stood_for(tensors[place]) for place in trace.trained)
            total, *values = Node.apply(replay, [total, *values], x, *trained)
        returned: Any = values[0]
        if step.everything:
            outputs = [total, *values, *(t.detach() for t in made[1 + trace.values : trace.first])]
            returned = pytree.tree_map(
                lambda leaf: outputs[leaf.place] if isinstance(leaf, Slot) else leaf,
                trace.returned,
                is_leaf=lambda leaf: isinstance(leaf, Slot),
            )
        return returned, penalty.reduce(total, penalised_count(penalty, len(x)))

    def _runners(self) -> "tuple[Runner, Late | None]":
        """Return what runs the graphs: not a CUDA graph whose last results are still needed."""
        last = None if self._last is None else self._last()
        if self.backend != "cudagraphs" or last is None or last.done or self.late is None:
            return self.forward, self.late
        return self.trace.forward.as_function(), Late(self.trace, "traced")


class Late:
    """The backward graph of a trace, and those where some gradients do not come in."""

    def __init__(self, trace: Trace, backend: str) -> None:
        assert trace.backward is not None
        self.graph, self.incoming, self._backend = trace.backward, trace.incoming, backend
        self._runs: dict[tuple[bool, ...], tuple[Runner, list[Value]]] = {}

    def run(self, there: tuple[bool, ...]) -> tuple[Runner, list[Value]]:
        """Return what runs the graph for the gradients that are `there`, and what it takes."""
        if there not in self._runs:
            pairs = zip(self.incoming, there, strict=True)
            graph = without(self.graph, self.incoming, [value for value, here in pairs if not here])
            self._runs[there] = runner(self._backend, graph, len(graph.outputs)), graph.inputs
        return self._runs[there]


class Replay:
    """What is kept of a forward graph until the backward graph runs, in the place of `Pending`."""

    def __init__(self, late: Late, kept: list[Tensor], device: torch.device) -> None:
        self._late, self._kept, self._device = late, kept, device
        self._versions = [tensor._version for tensor in kept]
        self.done = False

    def gradients(self, *incoming: Tensor | None) -> Sequence[Tensor | None]:
        """Return the gradients of x and of the parameters, and free what was kept."""
        if self.done:
            raise RuntimeError(AGAIN)
        _check_versions(self._kept, self._versions)
        late = self._late
        given = dict(zip(late.graph.inputs, self._kept, strict=False))
        self._kept, self.done = [], True
        coming = dict(zip(late.incoming, incoming, strict=False))  # of a second pass one
        run, takes = late.run(tuple(one is not None for one in coming.values()))
        for value, gradient in coming.items():
            if gradient is not None:
                given[value] = as_traced(gradient, value.like)
        with without_autocast(self._device):
            return run([given.pop(value) for value in takes])


def _check_versions(kept: list[Tensor], versions: list[int]) -> None:
    for tensor, version in zip(kept, versions, strict=True):
        now = tensor._version
        if now != version:
            raise RuntimeError(CHANGED.format(list(tensor.shape), now, version))


def as_traced(gradient: Tensor, like: Tensor) -> Tensor:
    """Return an incoming gradient in the layout of the trace."""
    if gradient.stride() == like.stride():
        return gradient
    return gradient.new_empty_strided(like.shape, like.stride()).copy_(gradient)
