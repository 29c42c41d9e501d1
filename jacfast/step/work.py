"""The graphs of one call of `forward_with_penalty`, and the node that stands for them outside."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jacfast.graph import leaf_of, nodes
from jacfast.layouts import align
from jacfast.lean import Gram, Sink
from jacfast.penalties.base import Penalty
from jacfast.second import in_words, watched


class Chunk(NamedTuple):
    """Some samples of the batch, and what hangs from them."""

    leaf: Tensor  # the samples
    logits: Tensor  # what the model returned
    totals: list[Tensor]  # sums of the penalty over samples, whose graphs are kept


class Work:
    """What is kept of the forward pass, chunk by chunk, until the backward pass.

    Where the network is piecewise linear and the cotangents are constants, the graph of the penalty
    does not touch the forward graph. Its gradient is then collected at once and its graph freed
    before the next one is made; else both are kept, and the backward pass goes through them
    together.
    """

    def __init__(self, penalty: Penalty, x: Tensor, parameters: Sequence[Tensor]) -> None:
        self.penalty, self.x, self.parameters = penalty, x, parameters
        self.sink = Sink(parameters, x.device)
        self.keeps = torch.is_grad_enabled() and (bool(parameters) or x.requires_grad)
        self.sink.wants_root = self.keeps and x.requires_grad
        self.order: Tensor | None = None  # which sample of x each sample of the chunks is
        self.chunks: list[Chunk] = []
        self.grams: list[Gram] = []
        self.logits: Tensor
        self.total: Tensor  # of the penalty, over samples and cotangents
        self.done = False

    def take(self, leaf: Tensor, logits: Tensor, outputs: Tensor) -> None:
        """Take over the graph of a chunk; `outputs` are what is penalised, logits or inner."""
        if self.keeps and not self.chunks:
            self._check_leaves(leaf, logits, outputs)
        self.chunks.append(Chunk(leaf, logits, []))

    def penalise(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        """Return the last chunk's sum of the penalty of `outputs` [N, K] for vectors [n, N, K]."""
        chunk = self.chunks[-1]
        forward = set(nodes(outputs, chunk.logits))
        align(forward)
        gram = self._gram(outputs, rows=vectors.shape[0] * vectors.shape[1])
        sums = []
        for v in vectors:
            target = chunk.leaf if gram is None else gram.edge
            with watched(forward) if self.keeps else contextlib.nullcontext():
                (g,) = torch.autograd.grad(
                    outputs,
                    target,
                    v,
                    create_graph=self.keeps,
                    retain_graph=True,
                    allow_unused=True,
                )
            if g is None:
                raise ValueError("the model's output must depend on x; its gradient is None")
            total = gram.square(g) if gram else self.penalty.measure(g.flatten(1)).sum()
            sums.append(total.detach())
            if not (self.keeps and total.requires_grad):
                continue
            if self._apart(total, forward):
                self._collect([total], [None])
            else:
                chunk.totals.append(total)
        self._flush()
        return torch.stack(sums).sum()

    def _gram(self, outputs: Tensor, rows: int) -> Gram | None:
        gram = self.sink.gram
        if gram is None or not (self.penalty.squared and gram.pays(rows) and gram.alone(outputs)):
            return None
        self.grams.append(gram)
        return gram

    def _flush(self) -> None:
        for gram in self.grams:
            gram.flush()

    def _apart(self, total: Tensor, forward: set) -> bool:
        """Say whether the gradient of `total` can be had without the forward graph."""
        if self.sink.wants_root:
            return False
        return all(node not in forward or leaf_of(node) is not None for node in nodes(total))

    def _collect(
        self,
        outputs: list[Tensor],
        weights: Sequence[Tensor | None],
        leaf: Tensor | None = None,
        keep: bool = False,
    ) -> Tensor | None:
        """Put the parameters' gradients of the weighted outputs in the sink; return the leaf's."""
        inputs = [self.sink.anchor, *self.parameters, *([] if leaf is None else [leaf])]
        try:
            with self.sink.mine(collecting=True):
                found = torch.autograd.grad(
                    outputs, inputs, weights, allow_unused=True, retain_graph=keep
                )
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            raise in_words(error) from error
        for parameter, gradient in zip(self.parameters, found[1:], strict=False):
            if gradient is not None:
                self.sink.add(parameter, gradient, shared=True)
        return None if leaf is None else found[-1]

    def gradients(self, g_logits: Tensor | None, g_total: Tensor | None) -> list[Tensor | None]:
        """Return the gradients of x and of the parameters, and free all graphs."""
        if self.done:
            raise RuntimeError(
                "backward through forward_with_penalty a second time: its graphs are freed by the "
                "first; add the losses up and call backward once"
            )
        self.done = True
        if g_total is None:
            self.sink.gradients.clear()
        else:
            self.sink.scale(g_total)
        if g_logits is not None and self.order is not None:
            g_logits = g_logits[self.order]
        start, parts = 0, []
        while self.chunks:
            chunk = self.chunks.pop(0)
            outputs, weights = [], []
            if g_logits is not None and chunk.logits.requires_grad:
                outputs.append(chunk.logits)
                weights.append(g_logits[start : start + len(chunk.leaf)])
            if g_total is not None:
                outputs += chunk.totals
                weights += [g_total.to(total.dtype) for total in chunk.totals]
            start += len(chunk.leaf)
            leaf = chunk.leaf if self.sink.wants_root else None
            # chunks can share the graph of a weight that is computed from parameters
            keep = bool(self.chunks)
            part = self._collect(outputs, weights, leaf, keep) if outputs else None
            if leaf is not None:
                parts.append(torch.zeros_like(leaf) if part is None else part)
        self._flush()
        of_x = self._of_x(parts) if self.sink.wants_root else None
        # popped: AccumulateGrad keeps a tensor that nobody else holds, and copies any other
        return [of_x, *(self.sink.gradients.pop(p, None) for p in self.parameters)]

    def _of_x(self, parts: list[Tensor]) -> Tensor:
        joined = torch.cat(parts)
        if self.order is None:
            return joined
        return torch.zeros_like(self.x).index_copy(0, self.order, joined)

    def _check_leaves(self, own: Tensor, logits: Tensor, outputs: Tensor) -> None:
        known = {own, self.sink.anchor, *self.parameters}
        for node in nodes(logits, outputs):
            leaf = leaf_of(node)
            if leaf is not None and leaf not in known:
                raise RuntimeError(
                    f"the model's output depends on a tensor of shape {list(leaf.shape)} that is "
                    "not one of model.parameters(): its gradient would be lost. Make it a "
                    "parameter of the model, or add penalty(logits, x) to the loss"
                )


class Node(torch.autograd.Function):
    """(logits, total) of a `Work`, as functions of x and of the parameters."""

    @staticmethod
    def forward(ctx: Any, work: Work, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.work = work
        ctx.set_materialize_grads(False)
        logits, total = work.logits, work.total
        del work.logits, work.total  # they will hold this node, which holds `work`
        return logits, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_logits: Tensor | None, g_total: Tensor | None) -> tuple:  # type: ignore[override]
        return None, *ctx.work.gradients(g_logits, g_total)
