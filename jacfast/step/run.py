"""One pass over a batch: whole or in parts, each with its forward pass, penalty and all."""

import contextlib
import dataclasses
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from jacfast.calling import (
    Arguments,
    Masks,
    State,
    as_rows,
    check_depends,
    drops,
    has_few_products,
    pick,
    readable,
    rebuilt,
)
from jacfast.calling.outputs import Output
from jacfast.graph import Graph
from jacfast.lean import PULL, Lean, training
from jacfast.penalties.base import Penalty, cotangents_of
from jacfast.penalties.checks import check_apart
from jacfast.penalties.learned import may_change
from jacfast.step.draw import Draw, Noise, Order, penalised_count
from jacfast.step.inner import only_one, outputs_of
from jacfast.step.node import Node
from jacfast.step.penalise import penalise
from jacfast.step.pending import Part, Pending
from jacfast.step.returned import Returned, join
from jacfast.step.seen import Otherwise


@dataclasses.dataclass
class Run:
    """The options of a pass; see `jacfast.forward_with_penalty`.

    Attributes:
        modules: all of the model's.
        chunk: samples at a time.
        sorts: whether the penalised samples may pass first, without the others. Else a batch that
            is passed whole keeps its order, and the penalised are chosen among the outputs.
        guards: whether to look if a part of the batch changes the model, which it must not; nor
            the penalty, at which is always looked.
        around: a context for each call of the model.
        everything: return all that the model returns, with a gradient, and not the logits alone.
        frozen: modules in eval mode for the pass, which they must be where it is differentiated.
        take: draws from elsewhere than `generator`.
        looking: a context for what looks at values on the host.
        outside: whether the graph may be left outside as autograd has it, where nothing here makes
            it cheaper.
        plain: whether it was left so; if so, whether it `attends`: has attention.
        ready: a call of the model on the whole batch that has been made already.
    """

    model: nn.Module
    modules: Sequence[nn.Module]
    penalty: Penalty
    arguments: Arguments
    chunk: int
    sorts: bool
    layer: str | None = None
    output: Output = None
    coupled: bool = False
    generator: torch.Generator | None = None
    guards: bool = False
    around: Any = contextlib.nullcontext
    everything: bool = False
    frozen: Sequence[nn.Module] = ()
    take: Callable[[Draw], Any] | None = None
    looking: Any = contextlib.nullcontext
    outside: bool = False
    ready: Otherwise | None = None
    plain: bool = dataclasses.field(default=False, init=False)
    attends: bool = dataclasses.field(default=False, init=False)
    _before: dict[str, State] = dataclasses.field(default_factory=dict, init=False)
    _masks: Masks = dataclasses.field(init=False)
    _returned: Returned = dataclasses.field(init=False)

    def __call__(self, x: Tensor, y: Tensor | None, whole: bool) -> tuple[Any, Tensor]:
        """Return (outputs, penalty) of the batch; of the penalised samples only, if not `whole`."""
        pending = self.forward(x, y, whole)
        values, total, returned = pending.values, pending.total, pending.returned
        places = pending.parts[0].tensors
        self.plain = pending.outside
        self.attends = any(part.lean.attends for part in pending.parts)
        if pending.keeps and not pending.outside:
            total, *values = Node.apply(pending, x, *pending.inputs)
        returned = rebuilt(returned, places, values) if self.everything else values[0]
        return returned, self.penalty.reduce(total, penalised_count(self.penalty, x.shape[0]))

    def forward(self, x: Tensor, y: Tensor | None, whole: bool) -> Pending:
        """Return the values of the batch, and what is left to do in the backward pass."""
        pending = Pending(x, self.arguments, self.modules, self.frozen)
        samples, but = x.shape[0], [self.generator]
        self._masks, self._returned = Masks(samples), Returned(samples, self.chunk)
        count = penalised_count(self.penalty, samples)
        with self.looking():
            if self.guards:
                self._before["model"] = State(self.model, but, arguments=self.arguments)
            if self.chunk < count and may_change(self.penalty):
                self._before["penalty"] = State(None, but, beside=self.penalty)
        first = samples  # samples that pass through the model with a penalty to come
        ahead = False
        if count < samples and (self.sorts or not whole):
            # of masks that are still to be drawn, from where a plain call would draw them; but
            # while a CUDA graph is recorded nobody knows where that is, and they come after
            ahead = whole and self.generator is None and readable(x.device) and drops(self.model)
            order = self._draw(Order(samples, x.device, ahead))
            pending.order, first = order if whole else order[:count], count
        with torch.enable_grad(), pending.sweep.of(PULL):
            pending.total = self._penalised(pending, x, y, first, count)
            for start in range(first, samples if whole else first, self.chunk):
                rows = slice(start, min(start + self.chunk, samples))
                self._forward(pending, x, rows, pending.sweep.wants_root)
        if ahead:  # or, if nothing was drawn, the next call would choose the same
            torch.rand((), device=x.device)
        order = pending.order if whole else None  # else it is only of those that are penalised
        pending.values = self._values(pending, order)
        pending.returned = self._returned.joined(order) if self.everything else None
        return pending

    def _draw(self, what: Draw) -> Any:
        return self.take(what) if self.take else what(self.penalty, self.generator)

    def _values(self, pending: Pending, order: Tensor | None) -> list[Tensor]:
        """Return what the model returned, for outside: copies, which may be changed there."""
        parts = zip(*(part.tensors for part in pending.parts), strict=True)
        return [one[0].clone() if pending.outside else join(one, order) for one in parts]

    def _penalised(
        self, pending: Pending, x: Tensor, y: Tensor | None, first: int, count: int
    ) -> Tensor:
        """Pass the first samples through the model; return the penalty of `count` of them."""
        draw, totals = None, []
        for start in range(0, first, self.chunk):
            rows = slice(start, min(start + self.chunk, first))
            part, outputs = self._forward(pending, x, rows, needs_gradient=True)
            pending.outside = self.outside and self._is_plain(pending, part)
            chosen, labels = None, None if y is None else y[pending.samples(rows)]
            if not start and not self.coupled:
                alone = self.layer is None and len(part.tensors) == 1
                check_apart(part.graph if alone else Graph(outputs), part.leaf)
            if count < first:  # drawn after the model has drawn what it draws in any call
                chosen = self._draw(Order(len(x), x.device))[:count]
                outputs = outputs.index_select(0, chosen)
                labels = None if labels is None else labels[chosen]
            with self.looking():
                self.penalty.check(outputs, labels)
            if not start:  # one draw for the batch, however it is cut
                draw = self._draw(Noise(count, outputs))
            noise = draw if draw is None or chosen is not None else draw[rows]
            vectors = cotangents_of(self.penalty, outputs, part.leaf, labels, noise)
            totals.append(penalise(pending, part, self.penalty, outputs, vectors, chosen))
            self._check_state("penalty")
        if len(totals) == 1:
            return totals[0]
        return torch.cat(totals) if totals[0].dim() else torch.stack(totals).sum()

    def _forward(
        self, pending: Pending, x: Tensor, rows: slice, needs_gradient: bool
    ) -> tuple[Part, Tensor]:
        """Pass samples through the model; return them, and what is penalised."""
        seen: list[tuple[Tensor, int]] = []
        if self.ready is None:
            leaf, lean, returned = self._call(pending, x, rows, needs_gradient, seen)
        else:
            entry, lean = self.ready.entry, self.ready.lean
            leaf, returned = entry.x, entry.returned
            pending.enter(entry.first)
        self._check_state("model")
        logits = pick(returned, self.output)
        as_rows(logits, leaf)
        outputs = as_rows(logits if self.layer is None else only_one(seen, self.layer), leaf)
        self._returned.check_shapes([logits, outputs])
        if needs_gradient:
            check_depends(outputs.requires_grad)
        tensors = [logits]
        if self.everything:
            tensors = self._returned.take(returned, logits, len(leaf))
        passed = Part(leaf, tensors, Graph(*tensors, outputs), lean, [])
        pending.take(passed)
        return passed, outputs

    def _call(
        self, pending: Pending, x: Tensor, rows: slice, needs_gradient: bool, seen: list
    ) -> tuple[Tensor, Lean, Any]:
        """Call the model on samples, with lean layers; return these, the mode and what it returns.

        An inner layer's outputs are `seen`.
        """
        index, part = pending.samples(rows), rows.stop - rows.start < x.shape[0]
        samples = x.detach()[index] if part or pending.order is not None else x.detach()
        leaf = samples.requires_grad_(needs_gradient)
        lean = Lean(pending.sweep, training(leaf.device), leaf, self._rows(leaf))
        entry = leaf.clone()  # the model may begin in place, and x stays as it is
        pending.enter(entry.grad_fn)
        with contextlib.ExitStack() as stack:
            if self.layer is not None:
                stack.enter_context(outputs_of(self.model.get_submodule(self.layer), seen))
            stack.enter_context(self.around())
            if part:
                stack.enter_context(self._masks.of(index))
            stack.enter_context(lean)
            arguments = pending.arguments.rows(index)
            returned = arguments.call(self.model, entry)
        if part and arguments.written:
            self._refuse("model", "what it writes to a container among its arguments")
        return leaf, lean, returned

    def _is_plain(self, pending: Pending, part: Part) -> bool:
        """Say whether the graph of the whole batch is autograd's own, and the node only costs.

        Without lean layers the node saves the gradient of x, a product with the first weight: much
        where there are few layers, which are large. On a GPU nobody has looked.
        """
        usual = pending.keeps and not pending.sweep.wants_root and len(part.leaf) == len(pending.x)
        usual = usual and all(map(operator.is_, pending.inputs, pending.parameters))
        usual = usual and part.leaf.device.type == "cpu" and part.lean.unused
        return usual and has_few_products(self.modules, part.leaf)

    def _rows(self, leaf: Tensor) -> int | None:
        """Return how many cotangents there are at most, if the sum of their squares is enough."""
        if not self.penalty.summed:
            return None
        n = getattr(self.penalty, "n", None)
        return leaf.shape[0] * n if isinstance(n, int) else sys.maxsize

    def _refuse(self, what: str, changed: str) -> NoReturn:
        raise ValueError(
            f"chunk_size must be the whole batch, {self._masks.samples}, or None for a {what} that "
            f"changes when it is called, by {changed} (once per chunk it would change too often); "
            f"got {self.chunk}"
        )

    def _check_state(self, what: str) -> None:
        before = self._before.pop(what, None)  # one look is enough
        with self.looking():
            changed = before and before.changed()
        if before and changed:
            before.undo()
            self._refuse(what, changed)
