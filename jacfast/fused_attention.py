"""A second derivative for attention that has already run in one of PyTorch's fused kernels.

Their backward pass cannot be differentiated. But what it computes can be written down from what the
node has saved: with S = scale Q K^T + mask, P = softmax(S) and the incoming gradient G,

    dV = P^T G,    dP = G V^T,    dS = P * (dP - rowsum(P * dP)),
    dQ = scale dS K,    dK = scale dS^T Q.

These operations take the place of the node's own result while a gradient with a graph is made. They
need memory for the L x S matrices of scores, as PyTorch's MATH backend does.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

# ScaledDotProductFlashAttentionForCpuBackward0 and its like for CUDA: the kernel's name varies.
PREFIX, SUFFIX = "ScaledDotProduct", "Backward0"


def is_fused(node: Node) -> bool:
    """Say whether `node` is the backward pass of a fused attention whose operands are saved."""
    name = node.name()
    return name.startswith(PREFIX) and name.endswith(SUFFIX) and hasattr(node, "_saved_query")


def twice(node: Node) -> Any:
    """Return the hook of a node that gives its result a graph; None if it drew dropout masks.

    Where the operands cannot be read once more, as in a checkpoint, and where there was dropout,
    PyTorch's own result is kept, which raises an error when it is differentiated.
    """
    if node._saved_dropout_p:  # type: ignore[attr-defined]
        return None

    def hook(returned: tuple[Tensor | None, ...], incoming: tuple[Tensor | None, ...]) -> Any:
        if incoming[0] is None:
            return None
        try:
            operands = node._saved_query, node._saved_key, node._saved_value  # type: ignore[attr-defined]
        except RuntimeError:
            return None
        ours = _gradients(node, operands, incoming[0])
        return tuple(
            new if old is not None else None for old, new in zip(returned, ours, strict=False)
        ) + (None,) * (len(returned) - len(ours))

    return hook


def _gradients(
    node: Any, operands: tuple[Tensor, Tensor, Tensor], incoming: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dQ, dK, dV; sums in float32 for half types, as the kernels have them."""
    dtype = operands[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    q, k, v, g = (t.to(wide) for t in (*operands, incoming))
    groups = q.shape[-3] // k.shape[-3]  # queries that share a key
    k, v = (t.repeat_interleave(groups, -3) if groups > 1 else t for t in (k, v))
    scale = node._saved_scale if node._saved_scale is not None else q.shape[-1] ** -0.5
    p = _probabilities(node, scale * (q @ k.transpose(-2, -1)))
    dp = g @ v.transpose(-2, -1)
    ds = p * (dp - (p * dp).sum(-1, keepdim=True))
    found = scale * (ds @ k), scale * (ds.transpose(-2, -1) @ q), p.transpose(-2, -1) @ g
    shared = (t.unflatten(-3, (-1, groups)).sum(-3) if groups > 1 else t for t in found[1:])
    dq, dk, dv = (t.to(dtype) for t in (found[0], *shared))
    return dq, dk, dv


def _probabilities(node: Any, scores: Tensor) -> Tensor:
    """Return the softmax of masked scores, 0 in rows that are masked whole."""
    for name in ("_saved_attn_mask", "_saved_attn_bias"):
        mask = getattr(node, name, None)
        if mask is not None:
            scores = scores + mask.to(scores.dtype)
    if node._saved_is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return torch.ops.aten._safe_softmax(scores, -1)
