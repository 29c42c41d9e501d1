"""The vector-Jacobian product: how every penalty, attack and Jacobian row pulls cotangents back."""

import torch
from torch import Tensor

# Up to this many samples, one batched (vmap) backward beats a Python loop over the projections:
# measured on a CPU, see benchmarks/README.md, 'Batched projections'.
BATCH_UP_TO = 64


def pull_back(outputs: Tensor, x: Tensor, cotangents: Tensor, create_graph: bool) -> Tensor:
    """Return ``J^T v`` for each of n cotangents per sample.

    Args:
        outputs: [N, K], computed from `x`.
        x: [N, ...], with requires_grad, part of the graph of `outputs`.
        cotangents: [n, N, K].
        create_graph: keep the result differentiable (for training); else it is a plain tensor.

    Returns:
        [n, N, D], D the number of entries of one sample of `x`. The graph of `outputs` is kept.
    """
    if len(cotangents) > 1 and len(x) <= BATCH_UP_TO:
        try:
            return _grad(outputs, x, cotangents, create_graph, batched=True).flatten(2)
        except RuntimeError:
            pass  # some backward passes (GroupNorm twice) have no batching rule: loop over them
    rows = [_grad(outputs, x, v, create_graph, batched=False) for v in cotangents]
    return torch.stack([row.flatten(1) for row in rows])


def _grad(
    outputs: Tensor, x: Tensor, cotangent: Tensor, create_graph: bool, batched: bool
) -> Tensor:
    (g,) = torch.autograd.grad(
        outputs,
        x,
        cotangent,
        create_graph=create_graph,
        retain_graph=True,
        is_grads_batched=batched,
        allow_unused=True,
    )
    if g is None:
        raise ValueError(
            "x must be part of the graph of the outputs: set x.requires_grad_() first, then call "
            "the model on that very tensor; the outputs do not depend on it"
        )
    return g
