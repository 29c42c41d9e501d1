"""Make the two graphs of a run: one real run of it, recorded, that leaves no trace."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from jacfast.calling import State, eager, without_autocast
from jacfast.calling.copies import sharing
from jacfast.step.draw import Draw, Noise, is_own
from jacfast.step.run import Passed, Run
from jacfast.step.traced.aside import asking_nobody, leaving_nothing
from jacfast.step.traced.graph import Graph, Value
from jacfast.step.traced.guards import SIMPLE, Look
from jacfast.step.traced.record import Recorder, Watch, unrecorded
from jacfast.step.traced.refuse import Refused
from jacfast.step.traced.unseen import listening


class Slot(NamedTuple):
    """Stands for an output of the forward graph in what the model returns."""

    place: int


@dataclasses.dataclass(eq=False)
class Trace:
    """What a run does, as two graphs.

    Attributes:
        forward: returns the sum of the penalty, the values that have a gradient, further tensors
            that the model returns, and what the other graph needs of it.
        backward: returns the gradients of x and of the `trained`; None without gradients.
        takes: what the forward graph takes, as places in the tensors that were looked at and the
            draws, joined.
        held: what the backward graph takes of these; then come what the forward graph has made for
            it and `incoming`.
        trained: which of these have a gradient, in the order in which the backward graph gives it.
        first: how many outputs of the forward graph there are before what the other one needs.
        values: how many of these are values.
        incoming: the gradients of the sum and of the values.
        returned: what the model returns, with slots for tensors.
        draws: what is drawn outside of the graphs.
        outputs: like what is penalised, [N, K], of NaN.
    """

    forward: Graph
    backward: Graph | None
    takes: list[int]
    held: list[int]
    trained: list[int]
    first: int
    values: int
    incoming: list[Value]
    returned: Any
    draws: list[Draw]
    outputs: Tensor

    def graphs(self) -> list[Graph]:
        """Return those that there are."""
        return [self.forward] if self.backward is None else [self.forward, self.backward]


def trace(run: Run, things: Callable[[], tuple], seen: Look) -> Trace:
    """Run it once, with gradients of 1, and return what it did; raise what it raises, or Refused.

    The model, the penalty, x and all random numbers are as they were afterwards. `things` are what
    the run depends on, the model among them, and `seen` is what a look at them has found.
    """
    model, _, penalty, x, _, arguments = run.asked
    with eager(), leaving_nothing(run.asked, seen.sources):
        before = State(model, copied=0, arguments=arguments, beside=penalty)
        look = Look.at_all(things())
        if look.key != seen.key:
            raise Refused("buffers that share their memory")
        with asking_nobody(model):
            done = _Tracing(run, look).trace(x)
        changed = before.exchanged()
        if changed or Look.at_all(things()).key != seen.key:
            raise Refused(f"the call changes {changed or 'an attribute of a module'}")
    return done


class _Tracing:
    """One recording of a run."""

    def __init__(self, run: Run, look: Look) -> None:
        step, x = run.step, run.asked.x
        self.recorder = Recorder(look.tensors, _fixed(run.asked.model, look), x.device)
        self.device, self.samples, self.penalty = x.device, len(x), run.asked.penalty
        self.outside = is_own(step.generator, x.device) or step.around is not contextlib.nullcontext
        self.draws = list[Draw]()
        self.outputs: Tensor
        step = dataclasses.replace(step, around=contextlib.nullcontext)
        self.run = dataclasses.replace(run, step=step, take=self._take, looking=unrecorded)

    def trace(self, x: Tensor) -> Trace:
        recorder, found, coming = self.recorder, list[Tensor | None](), list[Value]()
        trained: list[Value] = []
        with listening(), Watch(recorder), recorder:
            passed = self.run.forward()
            pending, given = passed.pending, [passed.total, *passed.values]
            outside = given if self.run.whole else given[:1]  # of a second pass the penalty alone
            place = len(recorder.calls)
            returned, further = self._returned(passed)
            if pending.keeps:
                trained = [recorder.value(parameter) for parameter in pending.parameters]
                with unrecorded():
                    incoming = [torch.ones_like(one) for one in outside]
                    coming = [recorder.take(gradient) for gradient in incoming]
                with torch.no_grad(), without_autocast(x.device):
                    missing = [None] * (len(given) - len(incoming))
                    found = pending.gradients(*incoming, *missing)
        first = [*given, *further]
        outputs = recorder.finish([*first, *found])
        whole_graph = Graph(recorder.inputs, recorder.calls, outputs, recorder.constants)
        forward, backward = whole_graph.cut(place, len(first))
        places = {v: i for i, v in enumerate(recorder.inputs) if v not in coming}
        if not places.keys() >= set(trained):
            raise Refused("a tensor with requires_grad that is made in the call, and is trained")
        held = [value for value in backward.inputs if value in places]
        made = forward.outputs[len(first) :]
        backward.inputs = [*held, *(v for v in made if v is not None), *coming]
        return Trace(
            forward,
            backward if pending.keeps else None,
            [places[value] for value in forward.inputs],
            [places[value] for value in held],
            [places[value] for value in trained],
            len(first),
            len(passed.values),
            coming,
            returned,
            self.draws,
            self.outputs,
        )

    def _take(self, what: Draw) -> Tensor | None:
        """Draw with the model's own numbers, as an operation; or outside, as an input."""
        if isinstance(what, Noise):
            with unrecorded():
                nan = what.outputs.new_full((), float("nan"))
                self.outputs = nan.expand(self.samples, what.outputs.shape[1])
        if not (self.outside or what.ahead):
            return what(self.penalty, None)
        with unrecorded():
            if isinstance(what, Noise):  # whose values are not known before the graph runs
                what = dataclasses.replace(what, outputs=nan.expand(what.outputs.shape))
            drawn = what(self.penalty, torch.Generator(self.device).manual_seed(0))
            if drawn is not None:
                self.draws.append(what)
                self.recorder.take(drawn)
        return drawn

    def _returned(self, passed: Passed) -> tuple[Any, list[Tensor]]:
        """Return what the model returned with slots for tensors, and those without a gradient."""
        if not self.run.step.everything:
            return Slot(1), []
        with_gradient = passed.pending.parts[0].tensors
        slots = {id(t): Slot(1 + i) for i, t in enumerate(with_gradient)}
        further: list[Tensor] = []

        def slot(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                if type(leaf) not in SIMPLE:
                    raise Refused(f"the model returns a {type(leaf).__name__}")
                return leaf
            if id(leaf) not in slots:
                slots[id(leaf)] = Slot(1 + len(with_gradient) + len(further))
                further.append(leaf)
            return slots[id(leaf)]

        return pytree.tree_map(slot, passed.returned), further


def _fixed(model: nn.Module, look: Look) -> list[Tensor]:
    """Return the tensors that are no copies for the time of the trace, and must not be written."""
    copies = set()
    for module in model.modules():
        held = (*vars(module).values(), *module.buffers(recurse=False))
        copies |= {id(t) for t in held if isinstance(t, Tensor) and not t.requires_grad}
    copies -= {id(t) for some in sharing(look.tensors).values() for t in some}  # not by Inductor
    return [tensor for tensor in look.tensors if id(tensor) not in copies]
