"""One pass over a batch: whole or in parts, each with its forward pass, penalty and all."""

import contextlib
import dataclasses
import operator
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from jacfast.calling import (
    Masks,
    as_rows,
    check_depends,
    drops,
    has_few_products,
    pick,
    readable,
    rebuilt,
)
from jacfast.graph import Graph
from jacfast.lean import PULL, Lean, training
from jacfast.penalties.base import cotangents_of
from jacfast.penalties.checks import check_apart
from jacfast.step.asked import Asked
from jacfast.step.cut import Cut, Unchanged
from jacfast.step.draw import Draw, Noise, Order, penalised_count
from jacfast.step.inner import only_one, watching
from jacfast.step.node import Node
from jacfast.step.penalise import penalise
from jacfast.step.pending import Part, Pending
from jacfast.step.returned import Returned, join
from jacfast.step.seen import Otherwise

if TYPE_CHECKING:
    from jacfast.step.step import Step


class Passed(NamedTuple):
    """What a pass gives: values, and what it leaves to the backward pass."""

    total: Tensor  # of the penalty, over samples and cotangents, or of each sample
    values: list[Tensor]  # of the parts' tensors, joined, in the order of x
    returned: Any  # by the model, if all of it is asked for; with a graph, for the first part
    pending: Pending


@dataclasses.dataclass
class Run:
    """A pass, and how it is made.

    Attributes:
        step: the options, which `jacfast.forward_with_penalty` explains.
        whole: whether all samples pass, or the penalised ones alone.
        frozen: modules in eval mode for the pass, which they must be where it is differentiated.
        take: draws from elsewhere than the step's generator.
        looking: a context for what looks at values on the host.
        outside: whether the graph may be left outside as autograd has it, where nothing here makes
            it cheaper.
        ready: a call of the model on the whole batch that has been made already.
        plain: after the pass, whether its graph was left outside.
        attends: after the pass, whether attention was met in the model.
    """

    step: "Step"
    asked: Asked
    cut: Cut
    whole: bool = True
    frozen: Sequence[nn.Module] = ()
    take: Callable[[Draw], Any] | None = None
    looking: Any = contextlib.nullcontext
    outside: bool = False
    ready: Otherwise | None = None
    plain: bool = dataclasses.field(default=False, init=False)
    attends: bool = dataclasses.field(default=False, init=False)

    def __call__(self) -> tuple[Any, Tensor]:
        """Return (outputs, penalty) of the samples that pass."""
        total, values, returned, pending = self.forward()
        penalty, x, places = self.asked.penalty, self.asked.x, pending.parts[0].tensors
        self.plain = pending.outside
        self.attends = any(part.lean.attends for part in pending.parts)
        if pending.keeps and not pending.outside:
            total, *values = Node.apply(pending, [total, *values], x, *pending.inputs)
        returned = rebuilt(returned, places, values) if self.step.everything else values[0]
        return returned, penalty.reduce(total, penalised_count(penalty, len(x)))

    def forward(self) -> Passed:
        """Pass the batch through the model, and penalise it."""
        x, chunk, samples = self.asked.x, self.cut.chunk, len(self.asked.x)
        pending = Pending(x, self.asked.arguments, self.asked.modules, self.frozen)
        self._masks, self._returned = Masks(samples), Returned(samples, chunk)
        with self.looking():
            self._unchanged = Unchanged(self.cut, self.asked, self.step.generator)
        count = penalised_count(self.asked.penalty, samples)
        first = samples  # samples that pass through the model with a penalty to come
        ahead = False
        if count < samples and (self.cut.sorts or not self.whole):
            # of masks that are still to be drawn, from where a plain call would draw them; but
            # while a CUDA graph is recorded nobody knows where that is, and they come after
            ahead = self.whole and self.step.generator is None and readable(x.device)
            ahead = ahead and drops(self.asked.model)
            order = self._draw(Order(samples, x.device, ahead))
            pending.order, first = order if self.whole else order[:count], count
        with torch.enable_grad(), pending.sweep.of(PULL):
            total = self._penalised(pending, first, count)
            for start in range(first, samples if self.whole else first, chunk):
                rows = slice(start, min(start + chunk, samples))
                self._forward(pending, rows, pending.sweep.wants_root)
        if ahead:  # or, if nothing was drawn, the next call would choose the same
            torch.rand((), device=x.device)
        order = pending.order if self.whole else None  # else it is only of the penalised
        values = self._values(pending, order)
        returned = self._returned.joined(order) if self.step.everything else None
        return Passed(total, values, returned, pending)

    def _draw(self, what: Draw) -> Any:
        return self.take(what) if self.take else what(self.asked.penalty, self.step.generator)

    def _values(self, pending: Pending, order: Tensor | None) -> list[Tensor]:
        """Return what the model returned, for outside: copies, which may be changed there."""
        parts = zip(*(part.tensors for part in pending.parts), strict=True)
        return [one[0].clone() if pending.outside else join(one, order) for one in parts]

    def _penalised(self, pending: Pending, first: int, count: int) -> Tensor:
        """Pass the first samples through the model; return the penalty of `count` of them."""
        penalty, x, y = self.asked.penalty, self.asked.x, self.asked.y
        draw, totals = None, []
        for start in range(0, first, self.cut.chunk):
            rows = slice(start, min(start + self.cut.chunk, first))
            part, outputs = self._forward(pending, rows, needs_gradient=True)
            pending.outside = self.outside and self._is_plain(pending, part)
            chosen, labels = None, None if y is None else y[pending.samples(rows)]
            if not start and self.step.batch_norm != "coupled":
                alone = self.step.layer is None and len(part.tensors) == 1
                check_apart(part.graph if alone else Graph(outputs), part.leaf)
            if count < first:  # drawn after the model has drawn what it draws in any call
                chosen = self._draw(Order(len(x), x.device))[:count]
                outputs = outputs.index_select(0, chosen)
                labels = None if labels is None else labels[chosen]
            with self.looking():
                penalty.check(outputs, labels)
            if not start:  # one draw for the batch, however it is cut
                draw = self._draw(Noise(count, outputs))
            noise = draw if draw is None or chosen is not None else draw[rows]
            vectors = cotangents_of(penalty, outputs, part.leaf, labels, noise)
            totals.append(penalise(pending, part, penalty, outputs, vectors, chosen))
            self._check_unchanged("penalty")
        if len(totals) == 1:
            return totals[0]
        return torch.cat(totals) if totals[0].dim() else torch.stack(totals).sum()

    def _forward(self, pending: Pending, rows: slice, needs_gradient: bool) -> tuple[Part, Tensor]:
        """Pass samples through the model; return them, and what is penalised."""
        seen: list[tuple[Tensor, int]] = []
        if self.ready is None:
            leaf, lean, returned = self._call(pending, rows, needs_gradient, seen)
        else:
            entry, lean = self.ready.entry, self.ready.lean
            leaf, returned = entry.x, entry.returned
            pending.enter(entry.first)
        self._check_unchanged("model")
        layer, logits = self.step.layer, pick(returned, self.step.output)
        as_rows(logits, leaf)
        outputs = as_rows(logits if layer is None else only_one(seen, layer), leaf)
        self._returned.check_shapes([logits, outputs])
        if needs_gradient:
            check_depends(outputs.requires_grad)
        tensors = [logits]
        if self.step.everything:
            tensors = self._returned.take(returned, logits, len(leaf))
        passed = Part(leaf, tensors, Graph(*tensors, outputs), lean, [])
        pending.take(passed)
        return passed, outputs

    def _call(
        self, pending: Pending, rows: slice, needs_gradient: bool, seen: list
    ) -> tuple[Tensor, Lean, Any]:
        """Call the model on samples, with lean layers; return these, the mode and what it returns.

        An inner layer's outputs are `seen`.
        """
        model, x = self.asked.model, self.asked.x
        index, part = pending.samples(rows), rows.stop - rows.start < len(x)
        samples = x.detach()[index] if part or pending.order is not None else x.detach()
        leaf = samples.requires_grad_(needs_gradient)
        lean = Lean(pending.sweep, training(leaf.device), leaf, self._rows(leaf))
        entry = leaf.clone()  # the model may begin in place, and x stays as it is
        pending.enter(entry.grad_fn)
        with contextlib.ExitStack() as stack:
            if self.step.layer is not None:
                stack.enter_context(watching(model.get_submodule(self.step.layer), seen))
            stack.enter_context(self.step.around())
            if part:
                stack.enter_context(self._masks.of(index))
            stack.enter_context(lean)
            arguments = pending.arguments.rows(index)
            returned = arguments.call(model, entry)
        if part and arguments.written:
            self._unchanged.refuse("model", "what it writes to a container among its arguments")
        return leaf, lean, returned

    def _is_plain(self, pending: Pending, part: Part) -> bool:
        """Say whether the graph of the whole batch is autograd's own, and the node only costs.

        Without lean layers the node saves the gradient of x, a product with the first weight: much
        where there are few layers, which are large. On a GPU nobody has looked.
        """
        usual = pending.keeps and not pending.sweep.wants_root and len(part.leaf) == len(pending.x)
        usual = usual and all(map(operator.is_, pending.inputs, pending.parameters))
        usual = usual and part.leaf.device.type == "cpu" and part.lean.unused
        return usual and has_few_products(self.asked.modules, part.leaf)

    def _rows(self, leaf: Tensor) -> int | None:
        """Return how many cotangents there are at most, if the sum of their squares is enough."""
        if not self.asked.penalty.summed:
            return None
        n = getattr(self.asked.penalty, "n", None)
        return leaf.shape[0] * n if isinstance(n, int) else sys.maxsize

    def _check_unchanged(self, what: str) -> None:
        with self.looking():
            self._unchanged.check(what)
