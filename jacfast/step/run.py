"""One pass over a batch: whole or in parts, each with its forward pass, penalty and all."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jacfast.calling import (
    Arguments,
    State,
    as_rows,
    differentiable,
    drops,
    pick,
    rebuilt,
)
from jacfast.calling.outputs import Output
from jacfast.lean import TRAINING, Lean
from jacfast.penalties.base import Penalty, check_apart
from jacfast.step.draw import Draw, Noise, Order, penalised
from jacfast.step.node import Node
from jacfast.step.work import Work


@dataclasses.dataclass
class Run:
    """The options of a pass; see `jacfast.forward_with_penalty`.

    Attributes:
        chunk: samples at a time.
        sorts: whether the penalised samples may pass first, without the others. Else a batch that
            is passed whole keeps its order, and the penalised are chosen among the outputs.
        guards: whether to look if a part of the batch changes the model, which it must not.
        around: a context for each call of the model.
        everything: return all that the model returns, with a gradient, and not the logits alone.
        frozen: modules in eval mode for the pass, which they must be where it is differentiated.
        take: draws from elsewhere than `generator`.
        looking: a context for what looks at values on the host.
    """

    model: nn.Module
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
    _before: State | None = dataclasses.field(default=None, init=False)

    def __call__(self, x: Tensor, y: Tensor | None, whole: bool) -> tuple[Any, Tensor]:
        """Return (outputs, penalty) of the batch; of the penalised samples only, if not `whole`."""
        work = self.work(x, y, whole)
        values, total, returned = work.values, work.total, work.returned
        if work.keeps:
            total, *values = Node.apply(work, x, *work.parameters)
        returned = rebuilt(returned, values) if self.everything else values[0]
        return returned, self.penalty.reduce(total, penalised(self.penalty, len(x)))

    def work(self, x: Tensor, y: Tensor | None, whole: bool) -> Work:
        """Return the values of the batch, and what is left to do in the backward pass."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        work = Work(self.penalty, x, parameters, self.frozen)
        with self.looking():
            self._before = State(self.model) if self.guards else None
        count = penalised(self.penalty, len(x))
        first = len(x)  # samples that pass through the model with a penalty to come
        ahead = False
        if count < len(x) and (self.sorts or not whole):
            # of masks that are still to be drawn, from where a plain call would draw them
            ahead = whole and self.generator is None and drops(self.model)
            work.order, first = self._draw(Order(len(x), x.device, ahead)), count
            if not whole:
                work.order = work.order[:count]
        with torch.enable_grad(), work.sink.mine():
            work.total = self._penalised(work, x, y, first, count)
            for start in range(first, len(x) if whole else first, self.chunk):
                self._forward(work, x, slice(start, start + self.chunk), work.sink.wants_root)
        if ahead:  # or, if nothing was drawn, the next call would choose the same
            torch.rand((), device=x.device)
        work.join()
        return work

    def _draw(self, what: Draw) -> Any:
        return self.take(what) if self.take else what(self.penalty, self.generator)

    def _penalised(self, work: Work, x: Tensor, y: Tensor | None, first: int, count: int) -> Tensor:
        """Pass the first samples through the model; return the penalty of `count` of them."""
        draw, totals = None, []
        for start in range(0, first, self.chunk):
            part = slice(start, min(start + self.chunk, first))
            outputs = self._forward(work, x, part, needs_gradient=True)
            leaf, rows = work.chunks[-1].leaf, None
            labels = None if y is None else y[work.samples(part)]
            if not start and not self.coupled:
                check_apart(outputs, leaf)
            if count < first:  # drawn after the model has drawn what it draws in any call
                rows = self._draw(Order(len(x), x.device))[:count]
                outputs = outputs.index_select(0, rows)
                labels = None if labels is None else labels[rows]
            with self.looking():
                self.penalty.check(outputs, labels)
            if not start:  # one draw for the batch, however it is cut
                draw = self._draw(Noise(count, outputs))
            noise = draw if draw is None or rows is not None else draw[part]
            vectors = self.penalty.cotangents(outputs, leaf, labels, noise)
            totals.append(work.penalise(outputs, vectors, rows))
        return torch.cat(totals) if totals[0].dim() else torch.stack(totals).sum()

    def _forward(self, work: Work, x: Tensor, part: slice, needs_gradient: bool) -> Tensor:
        """Pass samples through the model with lean layers; return what is penalised, as [N, K]."""
        index = work.samples(part)
        leaf = x.detach()[index].requires_grad_(needs_gradient)
        work.sink.begin(leaf)
        seen: list[tuple[Tensor, int]] = []
        with contextlib.ExitStack() as stack:
            if self.layer is not None:
                module = self.model.get_submodule(self.layer)
                hook = module.register_forward_hook(lambda *call: seen.append(_version(call[2])))
                stack.callback(hook.remove)
            stack.enter_context(self.around())
            if len(leaf) < len(x):
                stack.enter_context(work.masks.of(index))
            stack.enter_context(Lean(work.sink, TRAINING))
            # a copy: the model may begin in place, and x stays as it is
            returned = self.arguments.rows(index).call(self.model, leaf.clone())
        self._check_state(len(x))
        logits = pick(returned, self.output)
        as_rows(logits, leaf)
        outputs = logits if self.layer is None else self._inner(seen)
        rows = as_rows(outputs, leaf)
        if needs_gradient and not outputs.requires_grad:
            raise ValueError("the model's output must depend on x; it has no graph (detached?)")
        tensors = differentiable(returned) if self.everything else [logits]
        work.take(leaf, returned, tensors, outputs)
        return rows

    def _check_state(self, samples: int) -> None:
        before, self._before = self._before, None  # one look is enough
        changed = before and before.changed()
        if before and changed:
            before.undo()
            raise ValueError(
                f"chunk must be the whole batch, {samples}, or None for a model that changes when "
                f"it is called, by {changed} (once per chunk it would change too often); got "
                f"{self.chunk}"
            )

    def _inner(self, seen: list[tuple[Tensor, int]]) -> Tensor:
        """Return the output of the layer asked for."""
        if len(seen) != 1:
            raise ValueError(
                f"layer must be called once by the model; {self.layer!r} was called {len(seen)} "
                "times"
            )
        output, version = seen[0]
        if not isinstance(output, Tensor):
            raise TypeError(
                f"layer must return one tensor, a row per sample; {self.layer!r} returned a "
                f"{type(output).__name__}: name a layer behind it, or put an nn.Module that picks "
                "one of them there"
            )
        if _version(output)[1] != version:
            raise ValueError(
                f"layer must keep its output; that of {self.layer!r} was changed in place by what "
                "follows (inplace=True?)"
            )
        return output


def _version(output: Tensor) -> tuple[Tensor, int]:
    return output, getattr(output, "_version", 0)
