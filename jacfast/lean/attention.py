"""Attention in the penalised step: by PyTorch's fused kernels wherever these have a derivative.

Their second derivative is `jacfast.fused_attention`, a hook on the kernel's node. Whatever a kernel
does not take, PyTorch runs by operations that can be differentiated; whatever has no hook is made
to run by them here (`jacfast.calling.attention`): dropout, a mask that wants a gradient, and what
is saved by hooks, as in a checkpoint.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from jacfast.calling.attention import BY_MATH, SDPA, with_attention
from jacfast.calling.taken import taken
from jacfast.calling.tensors import plain
from jacfast.lean.known import usual
from jacfast.lean.mode import Lean

DEVICES = ("cpu", "cuda")  # whose kernels are known
# Scores of all heads from which PyTorch's kernel pays: 2 MB. Fewer stay in the caches, where
# operations are faster that write them down (benchmarks/README.md, 'Attention').
LEAST = 1 << 19


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(query key^T scale + mask) value, with a second derivative."""
    options = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
    tensors = [query, key, value] if attn_mask is None else [query, key, value, attn_mask]
    constant = attn_mask is None or (isinstance(attn_mask, Tensor) and not attn_mask.requires_grad)
    known = all(map(plain, tensors)) and query.device.type in DEVICES and query.dim() >= 3
    pays = known and _pays(query, key)
    if dropout_p or not (pays and constant and usual()):
        return BY_MATH[SDPA](query, key, value, attn_mask, dropout_p, **options)
    given = _with_heads(query, key, value, attn_mask)
    if given is None:
        return SDPA(query, key, value, attn_mask, **options)
    return SDPA(*given, **options).view(*query.shape[:-1], value.shape[-1])


def _pays(query: Tensor, key: Tensor) -> bool:
    """Say whether the scores are too many to be written down."""
    return query.shape[:-1].numel() * key.shape[-2] >= LEAST


def _with_heads(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None] | None:
    """Return the operands in four dimensions, which is what kernels take; None if they have them.

    The mask as well: it is spread to [N, heads, L, S] from the right.
    """
    before = query.shape[:-3]
    if key.shape[:-3] != before or value.shape[:-3] != before:
        return None
    if mask is not None and mask.dim() > 2:
        if query.dim() > 4 or mask.dim() > 4:
            return None
        mask = mask if mask.dim() == 4 else mask[None]
    elif query.dim() == 4:
        return None
    q, k, v = (t.reshape(-1, *t.shape[-3:]) for t in (query, key, value))
    return q, k, v, mask


def _attending(run: Callable) -> Callable:
    """Return what runs in the place of attention, and notes that it was called."""

    def call(lean: Lean, *args: Any, **kwargs: Any) -> Any:
        lean.attends = True
        return taken(run, *args, **kwargs)

    return call


MULTI_HEAD = F.multi_head_attention_forward
BY_KERNELS = {
    SDPA: _attending(attention),
    MULTI_HEAD: _attending(with_attention(MULTI_HEAD, attention)),
}
BY_OPERATIONS = {function: _attending(run) for function, run in BY_MATH.items()}
