"""One pass over a batch in chunks, each forward, penalty and all."""

import contextlib
import dataclasses

import torch
from torch import Tensor, nn

from jacfast.calling import as_rows, pick
from jacfast.lean import TRAINING, Lean
from jacfast.penalties.base import Penalty, check_apart
from jacfast.step.work import Node, Work


@dataclasses.dataclass
class Run:
    """The options of a pass; see `jacfast.forward_with_penalty`."""

    model: nn.Module
    penalty: Penalty
    layer: str | None
    chunk: int
    coupled: bool
    generator: torch.Generator | None

    def __call__(self, x: Tensor, y: Tensor | None, whole: bool) -> tuple[Tensor, Tensor]:
        """Return (logits, penalty) of the batch; of the penalised samples only, if not `whole`."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        work = Work(self.penalty, x, parameters)
        count = max(1, round(len(x) * self.penalty.subsample))
        samples = x.detach()
        if count < len(x):
            work.order = torch.randperm(len(x), device=x.device, generator=self.generator)
            if not whole:
                work.order = work.order[:count]
            samples, y = samples[work.order], None if y is None else y[work.order]
        with torch.enable_grad(), work.sink.mine():
            work.total = self._penalised(work, samples[:count], None if y is None else y[:count])
            for start in range(count, len(samples), self.chunk):
                part = samples[start : start + self.chunk]
                self._forward(work, part, needs_gradient=work.sink.wants_root)
        work.logits = torch.cat([chunk.logits.detach() for chunk in work.chunks])
        if whole and work.order is not None:
            work.logits = torch.empty_like(work.logits).index_copy(0, work.order, work.logits)
        logits, total = work.logits, work.total
        if work.keeps:
            logits, total = Node.apply(work, x, *parameters)
        return logits, self.penalty.reduce(total, count)

    def _penalised(self, work: Work, samples: Tensor, y: Tensor | None) -> Tensor:
        """Pass samples through the model; return the sum of their penalties."""
        draw, totals = None, []
        for start in range(0, len(samples), self.chunk):
            part = slice(start, start + self.chunk)
            outputs = self._forward(work, samples[part], needs_gradient=True)
            labels = None if y is None else y[part]
            leaf = work.chunks[-1].leaf
            self.penalty.check(outputs, labels)
            if not start:  # one draw for the batch, however it is cut
                draw = self.penalty.draw(len(samples), outputs, self.generator)
                if not self.coupled:
                    check_apart(outputs, leaf)
            noise = None if draw is None else draw[part]
            vectors = self.penalty.cotangents(outputs, leaf, labels, noise)
            totals.append(work.penalise(outputs, vectors))
        return torch.stack(totals).sum()

    def _forward(self, work: Work, samples: Tensor, needs_gradient: bool) -> Tensor:
        """Pass samples through the model with lean layers; return what is penalised, as [N, K]."""
        leaf = samples.detach().requires_grad_(needs_gradient)
        work.sink.begin(leaf)
        seen: list[tuple[Tensor, int]] = []
        with contextlib.ExitStack() as stack:
            if self.layer is not None:
                module = self.model.get_submodule(self.layer)
                hook = module.register_forward_hook(lambda *call: seen.append(_version(call[2])))
                stack.callback(hook.remove)
            stack.enter_context(Lean(work.sink, TRAINING))
            logits = pick(self.model(leaf))
        as_rows(logits, leaf)
        outputs = logits if self.layer is None else pick(self._inner(seen))
        rows = as_rows(outputs, leaf)
        if needs_gradient and not outputs.requires_grad:
            raise ValueError("the model's output must depend on x; it has no graph (detached?)")
        work.take(leaf, logits, outputs)
        return rows

    def _inner(self, seen: list[tuple[Tensor, int]]) -> Tensor:
        """Return the output of the layer asked for."""
        if len(seen) != 1:
            raise ValueError(
                f"layer must be called once by the model; {self.layer!r} was called {len(seen)} "
                "times"
            )
        output, version = seen[0]
        if _version(output)[1] != version:
            raise ValueError(
                f"layer must keep its output; that of {self.layer!r} was changed in place by what "
                "follows (inplace=True?)"
            )
        return output


def _version(output: Tensor) -> tuple[Tensor, int]:
    return output, getattr(output, "_version", 0)
