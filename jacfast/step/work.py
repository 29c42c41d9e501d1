"""The graphs of one call of `forward_with_penalty`."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jacfast.calling import Masks, eager, grad_twice, in_eval_mode
from jacfast.graph import leaf_of, nodes
from jacfast.layouts import align
from jacfast.lean import Gram, Sink
from jacfast.penalties.base import Penalty
from jacfast.second import in_words, watched

AGAIN = (
    "backward through forward_with_penalty a second time: its graphs are freed by the first; add "
    "the losses up and call backward once"
)


class Chunk(NamedTuple):
    """Some samples of the batch, and what hangs from them."""

    leaf: Tensor  # the samples
    tensors: list[Tensor]  # what the model returned: the logits, or all that has a gradient
    outputs: Tensor  # what is penalised
    totals: list[Tensor]  # sums of the penalty over samples, or one of each, whose graphs are kept


class Work:
    """What is kept of the forward pass, chunk by chunk, until the backward pass.

    Where the network is piecewise linear and the cotangents are constants, the graph of the penalty
    does not touch the forward graph. Its gradient is then collected at once and its graph freed
    before the next one is made; else both are kept, and the backward pass goes through them
    together.
    """

    def __init__(
        self,
        penalty: Penalty,
        x: Tensor,
        parameters: Sequence[Tensor],
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        self.penalty, self.x, self.parameters, self.frozen = penalty, x, parameters, frozen
        self.sink = Sink(parameters, x.device)
        self.keeps = torch.is_grad_enabled() and (bool(parameters) or x.requires_grad)
        self.sink.wants_root = self.keeps and x.requires_grad
        self.masks = Masks(len(x))
        self.order: Tensor | None = None  # which sample of x each sample of the chunks is
        self.chunks: list[Chunk] = []
        self.grams: list[Gram] = []
        self.returned: Any  # by the model, for the last chunk
        self.values: list[Tensor]  # of the chunks' tensors, joined, in the order of x
        self.total: Tensor  # of the penalty, over samples and cotangents, or of each sample
        self.done = False
        self.began = _sequence_number()

    def samples(self, part: slice) -> slice | Tensor:
        """Return which samples of x are the `part` of the chunks."""
        return part if self.order is None else self.order[part]

    def take(self, leaf: Tensor, returned: Any, tensors: list[Tensor], outputs: Tensor) -> None:
        """Take over the graph of a chunk; `outputs` are what is penalised, logits or inner."""
        if self.keeps and not self.chunks:
            self._check_leaves(leaf, *tensors, outputs)
        if self.sink.wants_root:
            leaf.register_hook(_refusing(self.sink))  # x would not get it
        self.returned = returned
        self.chunks.append(Chunk(leaf, tensors, outputs, []))

    def join(self) -> None:
        """Put the values of the chunks together, for outside."""
        parts = zip(*(chunk.tensors for chunk in self.chunks), strict=True)
        # also of one chunk copies: theirs may be changed outside, those of the graph not
        self.values = [
            torch.cat([tensor.detach() for tensor in one])
            if len(one) > 1
            else one[0].detach().clone()
            for one in parts
        ]
        if self.order is not None and len(self.order) == len(self.x):
            self.values = [torch.empty_like(v).index_copy(0, self.order, v) for v in self.values]

    def penalise(self, outputs: Tensor, vectors: Tensor, rows: Tensor | None) -> Tensor:
        """Return the penalty of `outputs` [N, K] for vectors [n, N, K]: the sum, or of each sample.

        These are the outputs of all samples of the last chunk, or of `rows` of it.
        """
        chunk = self.chunks[-1]
        forward = set(nodes(outputs, *chunk.tensors))
        align(forward)
        gram = self._gram(outputs, rows=vectors.shape[0] * vectors.shape[1])
        sums = []
        for v in vectors:
            target = chunk.leaf if gram is None else gram.edge
            with watched(forward, chunk.leaf) if self.keeps else contextlib.nullcontext():
                (g,) = self._grad(
                    [outputs], [target], [v], create_graph=self.keeps, retain_graph=True
                )
            if g is None:
                raise ValueError("the model's output must depend on x; its gradient is None")
            if gram is None and rows is not None:
                g = g.index_select(0, rows)
            total = gram.square(g) if gram else self._total(g)
            sums.append(total.detach())
            if not (self.keeps and total.requires_grad):
                continue
            if self._apart(total, forward):
                self._collect([total], [torch.ones_like(total)])
            else:
                chunk.totals.append(total)
        self._flush()
        return torch.stack(sums).sum(0)

    @property
    def _grad(self) -> Callable[..., tuple[Tensor | None, ...]]:
        """``torch.autograd.grad``; with attention, that of it: a mode would cost every call."""
        if self.sink.attends:
            return grad_twice
        return functools.partial(torch.autograd.grad, allow_unused=True)

    def _total(self, g: Tensor) -> Tensor:
        return self.penalty.collect(self.penalty.measure(g.flatten(1))[None])

    def _gram(self, outputs: Tensor, rows: int) -> Gram | None:
        gram = self.sink.gram
        sums = self.penalty.squared and self.penalty.reduction == "mean"
        if gram is None or not (sums and gram.pays(rows) and gram.alone(outputs)):
            return None
        self.grams.append(gram)
        return gram

    def _flush(self) -> None:
        for gram in self.grams:
            gram.flush()

    def _apart(self, total: Tensor, forward: set) -> bool:
        """Say whether the gradient of `total` can be had now: without the forward graph and weight.

        Not where samples will have weights of their own, nor in float16, whose smallest numbers are
        lost unless the scale of the loss is there from the start.
        """
        if self.sink.wants_root or total.dim():
            return False
        return all(
            (node not in forward or leaf_of(node) is not None) and not _is_float16(node)
            for node in nodes(total)
        )

    def _collect(
        self,
        outputs: list[Tensor],
        weights: Sequence[Tensor],
        leaf: Tensor | None = None,
        keep: bool = False,
    ) -> Tensor | None:
        """Put the parameters' gradients of the weighted outputs in the sink; return the leaf's."""
        inputs = [self.sink.anchor, *self.parameters, *([] if leaf is None else [leaf])]
        try:
            # checkpoints run parts of the model again, as in the forward pass
            with self.sink.mine(collecting=True), eager(), in_eval_mode(self.frozen):
                found = self._grad(outputs, inputs, weights, retain_graph=keep)
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            raise in_words(error) from error
        for parameter, gradient in zip(self.parameters, found[1:], strict=False):
            if gradient is not None:
                self.sink.add(parameter, gradient, shared=True)
        return None if leaf is None else found[-1]

    def gradients(self, g_total: Tensor | None, *g_values: Tensor | None) -> list[Tensor | None]:
        """Return the gradients of x and of the parameters, and free all graphs."""
        if self.done:
            raise RuntimeError(AGAIN)
        self.done = True
        if g_total is None:
            self.sink.gradients.clear()
        elif not g_total.dim():  # else nothing has been collected yet
            self.sink.scale(g_total)
        if self.order is not None:
            g_values = tuple(g if g is None else g[self.order] for g in g_values)
        start, parts, whole = 0, [], len(self.chunks) == 1
        while self.chunks:
            chunk = self.chunks.pop(0)
            part = slice(start, start + len(chunk.leaf))
            outputs, weights = [], []
            for tensor, g in zip(chunk.tensors, g_values, strict=True):
                if g is not None and tensor.requires_grad:
                    outputs.append(tensor)
                    weights.append(g if whole else g[part])
            if g_total is not None:
                g = g_total[part] if g_total.dim() else g_total
                outputs += chunk.totals
                weights += [g.to(total.dtype) for total in chunk.totals]
            start = part.stop
            leaf = chunk.leaf if self.sink.wants_root else None
            # chunks can share the graph of a weight that is computed from parameters
            keep = bool(self.chunks)
            found = self._collect(outputs, weights, leaf, keep) if outputs else None
            self._close(chunk)
            if leaf is not None:
                parts.append(torch.zeros_like(leaf) if found is None else found)
        self._flush()
        of_x = self._of_x(parts) if self.sink.wants_root else None
        # popped: AccumulateGrad keeps a tensor that nobody else holds, and copies any other
        return [of_x, *(self.sink.gradients.pop(p, None) for p in self.parameters)]

    def _close(self, chunk: Chunk) -> None:
        """Let whoever comes into the graph of a chunk from elsewhere, later, hear why he must not.

        What its nodes have saved is freed, of which PyTorch would complain in words of its own.
        """
        refuse = _refusing(self.sink)
        for node in nodes(chunk.outputs, *chunk.tensors):
            if leaf_of(node) is None and node._sequence_nr() >= self.began:
                node.register_prehook(refuse)

    def _of_x(self, parts: list[Tensor]) -> Tensor:
        joined = torch.cat(parts)
        if self.order is None:
            return joined
        return torch.zeros_like(self.x).index_copy(0, self.order, joined)

    def _check_leaves(self, own: Tensor, *tensors: Tensor) -> None:
        known = {own, self.sink.anchor, *self.parameters}
        for node in nodes(*tensors):
            leaf = leaf_of(node)
            if leaf is not None and leaf not in known:
                raise RuntimeError(
                    f"the model's output depends on a tensor of shape {list(leaf.shape)} that is "
                    "not one of model.parameters(): its gradient would be lost. Make it a "
                    "parameter of the model, or add penalty(logits, x) to the loss"
                )


def _refusing(sink: Sink) -> Callable[[Any], None]:
    """Return a hook for what only the sweeps of this library may come to."""

    def refuse(_: Any) -> None:
        sink.check_open()

    return refuse


def _sequence_number() -> int:
    """Return the number that autograd gives to the next node of this thread, or the last."""
    with torch.enable_grad():
        node = torch.zeros((), requires_grad=True).clone().grad_fn
    assert node is not None
    return node._sequence_nr()  # type: ignore[attr-defined]


def _is_float16(node: Any) -> bool:
    return any(one.dtype == torch.float16 for one in node._input_metadata)
