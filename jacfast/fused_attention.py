"""A second derivative for attention that has run in one of PyTorch's fused kernels.

Their backward pass cannot be differentiated. But what it computes is known: with
S = scale Q K^T + mask, P = softmax(S) and the incoming gradient G,

    dV = P^T G,    dP = G V^T,    dS = P * (dP - rowsum(P * dP)),
    dQ = scale dS K,    dK = scale dS^T Q.

While a gradient with a graph is made, the node's own result gets the derivative of these formulas
(`jacfast.attention_tiles`), of what the node has saved. For a third derivative, and under
transforms, they are written out in operations, which need memory for the L x S matrices of scores,
as PyTorch's MATH backend does.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from jacfast import attention_tiles  # noqa: F401  (registers the op)
from jacfast.ops.lives import transformed

# ScaledDotProductFlashAttentionForCpuBackward0 and its like for CUDA: the kernel's name varies.
PREFIX, SUFFIX = "ScaledDotProduct", "Backward0"


def is_fused(node: Node) -> bool:
    """Say whether `node` is the backward pass of a fused attention whose operands are saved."""
    name = node.name()
    return name.startswith(PREFIX) and name.endswith(SUFFIX) and hasattr(type(node), "_saved_query")


class Attention(NamedTuple):
    """What a node has saved but for its operands."""

    mask: Tensor | None
    causal: bool
    scale: float


def twice(node: Node) -> Any:
    """Return the hook of a node that gives its result a graph; None where there is none to give.

    That is so for dropout, whose mask the kernel has drawn, and for a mask that wants a gradient.
    Where the operands cannot be read once more, as in a checkpoint, PyTorch's own result is kept,
    too, which raises an error when it is differentiated.
    """
    if node._saved_dropout_p or any(following for following, _ in node.next_functions[3:]):  # type: ignore[attr-defined]
        return None

    def hook(returned: tuple[Tensor | None, ...], incoming: tuple[Tensor | None, ...]) -> Any:
        if incoming[0] is None:
            return None
        try:
            operands = node._saved_query, node._saved_key, node._saved_value  # type: ignore[attr-defined]
            how = _how(node)
        except RuntimeError:
            return None
        if transformed():
            ours = _gradients(incoming[0], *operands, how)
            found = [None if r is None else one for r, one in zip(returned, ours, strict=False)]
        else:
            found = _First.apply(incoming[0], *operands, how, returned[:3])
        return (*found, *[None] * (len(returned) - 3))

    return hook


def _how(node: Any) -> Attention:
    masks = (getattr(node, name, None) for name in ("_saved_attn_mask", "_saved_attn_bias"))
    mask = next((mask for mask in masks if mask is not None), None)
    scale = node._saved_scale
    if scale is None:
        scale = node._saved_query.shape[-1] ** -0.5
    return Attention(mask, node._saved_is_causal, scale)


class _First(torch.autograd.Function):
    """The gradients in Q, K and V that a kernel has `found` for an incoming gradient g."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, q: Tensor, k: Tensor, v: Tensor, how: Any, found: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, q, k, v, how.mask)
        ctx.how = how._replace(mask=None)
        return tuple(None if each is None else each.detach() for each in found)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple:  # type: ignore[override]
        g, q, k, v, mask = ctx.saved_tensors
        how = ctx.how._replace(mask=mask)
        if torch.is_grad_enabled():
            return *_third((g, q, k, v), how, cotangents), None, None
        found = torch.ops.jacfast.attention_tiles(
            g, q, k, v, mask, *cotangents, how.causal, how.scale
        )
        return *found, None, None


def _third(
    operands: tuple[Tensor, ...], how: Attention, cotangents: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Return the second derivative by operations that can be differentiated any number of times."""
    g, q, k, v = operands
    ends = [
        (one, cotangent)
        for one, cotangent in zip(_gradients(g, q, k, v, how), cotangents, strict=True)
        if cotangent is not None and one.requires_grad
    ]
    wanted = [t for t in operands if t.requires_grad]
    if not ends or not wanted:
        return (None,) * len(operands)
    outputs, weights = zip(*ends, strict=True)
    grads = torch.autograd.grad(outputs, wanted, weights, create_graph=True, allow_unused=True)
    found = iter(grads)
    return tuple(next(found) if t.requires_grad else None for t in operands)


def _gradients(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, how: Attention
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dQ, dK, dV; sums in float32 for half types, as the kernels have them."""
    dtype = q.dtype
    wide = torch.promote_types(dtype, torch.float32)
    q, k, v, g = (t.to(wide) for t in (q, k, v, g))
    groups = q.shape[-3] // k.shape[-3]  # queries that share a key
    k, v = (t.repeat_interleave(groups, -3) if groups > 1 else t for t in (k, v))
    p = _probabilities(how, how.scale * (q @ k.transpose(-2, -1)))
    dp = g @ v.transpose(-2, -1)
    ds = p * (dp - (p * dp).sum(-1, keepdim=True))
    found = how.scale * (ds @ k), how.scale * (ds.transpose(-2, -1) @ q), p.transpose(-2, -1) @ g
    shared = (t.unflatten(-3, (-1, groups)).sum(-3) if groups > 1 else t for t in found[1:])
    dq, dk, dv = (t.to(dtype) for t in (found[0], *shared))
    return dq, dk, dv


def _probabilities(how: Attention, scores: Tensor) -> Tensor:
    """Return the softmax of masked scores, 0 in rows that are masked whole."""
    if how.mask is not None:
        scores = scores + how.mask.to(scores.dtype)
    if how.causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return torch.ops.aten._safe_softmax(scores, -1)
