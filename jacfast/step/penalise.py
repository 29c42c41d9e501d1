"""The penalty of samples that have passed: its value, and the sweeps that its gradient takes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from jacfast.batching import together
from jacfast.calling import check_depends, grad_twice
from jacfast.graph import nodes, saves
from jacfast.lacking import explain_new
from jacfast.layouts import align
from jacfast.lean import Gram
from jacfast.penalties.base import Penalty
from jacfast.second import watched
from jacfast.step.pending import Part, Pending
from jacfast.vjp import each_or_all


def penalise(
    pending: Pending,
    part: Part,
    penalty: Penalty,
    outputs: Tensor,
    vectors: Tensor,
    rows: Tensor | None,
) -> Tensor:
    """Return the penalty of `outputs` [N, K] for vectors [n, N, K]: the sum, or of each sample.

    These are the outputs of all samples of the part, or of `rows` of it. The gradient of a total
    that does not touch the forward graph is collected at once, and its graph freed before the next
    one is made; else both are kept, and the backward pass goes through them together.
    """
    align(part.graph)
    # all samples are pulled back, even if some are penalised
    gram = _gram(part, outputs, rows=vectors.shape[0] * part.leaf.shape[0])
    pending.outside = pending.outside and gram is None
    if not pending.outside:
        pending.learn(part, vectors, outputs)
    sums = []
    forward = set(part.graph) if part.lean.active else set()
    target = part.leaf if gram is None else gram.edge
    for g in _pulled(pending, part, outputs, vectors, target, batched=gram is None):
        if pending.outside:
            explain_new(part.graph, g)
        if rows is not None:
            g = g.index_select(1, rows) if gram is None else gram.some(g, rows)
        total = penalty.total(g) if gram is None else gram.square(g)
        sums.append(total if pending.outside else total.detach())
        if pending.outside:
            continue
        if gram is None:
            pending.learn(part, total, g)
        if not (pending.keeps and total.requires_grad):
            continue
        alone = part.lean.active and not pending.sweep.wants_root and not total.dim()
        if alone and _apart(total, forward):
            pending.now(part, total)
        else:
            part.totals.append(total)
    return torch.stack(sums).sum(0) if len(sums) > 1 else sums[0]


def _pulled(
    pending: Pending, part: Part, outputs: Tensor, vectors: Tensor, target: Any, batched: bool
) -> Iterator[Tensor]:
    """Yield J^T v with its graph, one by one as [1, N, ...], or all at once, where that pays."""
    grad: Callable[..., Any] = grad_twice if part.lean.attends else torch.autograd.grad
    options = {"create_graph": pending.keeps, "retain_graph": True, "allow_unused": True}

    def pull(v: Tensor, batched: bool = False) -> Tensor:
        with watched(part.graph, part.leaf) if pending.keeps else contextlib.nullcontext():
            (g,) = grad([outputs], [target], [v], **options, is_grads_batched=batched)
        check_depends(g is not None)
        return g

    batched = batched and not part.lean.attends
    at_once = batched and together(len(vectors), part.leaf, part.graph)
    return each_or_all(pull, vectors, at_once)


def _gram(part: Part, outputs: Tensor, rows: int) -> Gram | None:
    """Return how to do without J^T v, where that is possible and cheaper."""
    gram = part.lean.gram
    return gram if gram and gram.pays(gram.weight, rows) and gram.alone(outputs) else None


def _apart(total: Tensor, forward: set[Node]) -> bool:
    """Say whether the gradient of `total` can be had now: without what the forward graph saves.

    Not in float16, whose smallest numbers are lost unless the scale of the loss is there from the
    start.
    """
    return all(
        (node not in forward or not saves(node)) and not _is_float16(node) for node in nodes(total)
    )


def _is_float16(node: Any) -> bool:
    return any(one.dtype == torch.float16 for one in node._input_metadata)
