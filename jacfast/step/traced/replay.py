"""Run the two graphs of a trace in place of a run, behind the same node."""

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from jacfast.calling import without_autocast
from jacfast.step.draw import penalised
from jacfast.step.node import Node
from jacfast.step.traced.backends import Runner, runner
from jacfast.step.traced.guards import Look
from jacfast.step.traced.trace import Slot, Trace
from jacfast.step.work import AGAIN

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
        late = trace.backward
        self.backward = None if late is None else runner(backend, late, len(late.outputs))
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
        forward, backward = self._runners()
        with around(), torch.no_grad(), without_autocast(x.device):
            made = forward([tensors[place] for place in trace.forward_takes])
        total, *values = made[: 1 + trace.values]
        if backward is not None:
            replay = Replay(trace, backward, tensors, made)
            self._last = weakref.ref(replay)
            total, *values = Node.apply(replay, x, *look.parameters)
        returned: Any = values[0]
        if step.everything:
            outputs = [total, *values, *(t.detach() for t in made[1 + trace.values : trace.first])]
            returned = pytree.tree_map(
                lambda leaf: outputs[leaf.place] if isinstance(leaf, Slot) else leaf,
                trace.returned,
                is_leaf=lambda leaf: isinstance(leaf, Slot),
            )
        return returned, penalty.reduce(total, penalised(penalty, len(x)))

    def _runners(self) -> tuple[Runner, Runner | None]:
        """Return what runs the graphs: not a CUDA graph whose last results are still needed."""
        last = None if self._last is None else self._last()
        if self.backend != "cudagraphs" or last is None or last.done:
            return self.forward, self.backward
        late = self.trace.backward
        return self.trace.forward.as_function(), None if late is None else late.as_function()


class Replay:
    """What is kept of a forward graph until the backward graph runs, in the place of a `Work`."""

    def __init__(
        self, trace: Trace, run: Runner, tensors: list[Tensor], made: Sequence[Tensor]
    ) -> None:
        self.total, self.values, self.returned = made[0], made[1 : 1 + trace.values], None
        self._trace, self._run, self._inputs = trace, run, len(tensors)
        self._device = self.total.device
        taken = [tensors[place] for place in trace.backward_takes if place < len(tensors)]
        self._kept: list[Tensor] = [*taken, *made[trace.first :]]
        self._taken = len(taken)
        self._versions = [tensor._version for tensor in self._kept]
        self.done = False

    def gradients(self, *incoming: Tensor | None) -> Sequence[Tensor | None]:
        """Return the gradients of x and of the parameters, and free what was kept."""
        if self.done:
            raise RuntimeError(AGAIN)
        kept, self._kept, self.done = self._kept, [], True
        for tensor, version in zip(kept, self._versions, strict=True):
            if tensor._version != version:
                now = tensor._version
                raise RuntimeError(CHANGED.format(list(tensor.shape), now, version))
        places = [place - self._inputs for place in self._trace.backward_takes[self._taken :]]
        kept[self._taken : self._taken] = [
            as_traced(incoming[place], self._trace.given[place], self._device) for place in places
        ]
        with without_autocast(self._device):
            return self._run(kept)


def as_traced(gradient: Tensor | None, like: Tensor, device: torch.device) -> Tensor:
    """Return an incoming gradient in the layout of the trace; zeros for none."""
    if gradient is not None and gradient.stride() == like.stride():
        return gradient
    own = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)
    return own.zero_() if gradient is None else own.copy_(gradient)
