"""Attention by operations that can be differentiated twice, whatever the layer asks for.

PyTorch's fused kernels have no second derivative. `torch.nn.attention.sdpa_kernel` chooses for the
whole process; a mode is of one thread, and holds in a backward pass as well, where gradient
checkpointing runs parts of the model again and must find what it found before.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from jacfast.calling.contexts import autocasts
from jacfast.calling.listeners import ASKS, note
from jacfast.calling.stock import SDPA, overridden
from jacfast.calling.taken import taken
from jacfast.calling.tensors import plain
from jacfast.ops.lives import transformed


class Twice(TorchFunctionMode):
    """While active, ``F.scaled_dot_product_attention`` runs as by its ``MATH`` backend.

    Unless someone else has a mode around it, for whom functions are left as they are. And who
    listens to gradients is noted (`jacfast.calling.listeners`).
    """

    yields = False  # to a mode of someone else's

    def __enter__(self) -> "Twice":
        self.yields = overridden()
        return super().__enter__()

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in ASKS:
            note(*args, **kwargs)
        known = func in BY_MATH and not self.yields
        result = taken(BY_MATH[func], *args, **kwargs) if known else None
        return func(*args, **kwargs) if result is None else result


def grad_twice(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor | GradientEdge],
    weights: Sequence[Tensor],
    **options: Any,
) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad`` with `Twice` active in the backward pass.

    A mode handles calls with tensors, that of ``torch.autograd.grad`` as well, and is off while it
    does; edges of the graph are none.
    """
    ends = [get_gradient_edge(output) for output in outputs]
    starts = [i if isinstance(i, GradientEdge) else get_gradient_edge(i) for i in inputs]
    with Twice():
        return torch.autograd.grad(ends, starts, weights, **options)


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
    """Return softmax(query key^T scale + mask) value, to the bit as by the backend."""
    operands, options = [query, key, value], {"scale": scale, "enable_gqa": enable_gqa}
    given = operands if attn_mask is None else [*operands, attn_mask]
    if not _usual() or not all(map(plain, given)):
        return SDPA(*operands, attn_mask, dropout_p, is_causal, **options)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        mask = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = mask.masked_fill(~attn_mask, float("-inf"))
    kind = query.device.type
    rounds = autocasts(kind)
    if rounds and all(t.dtype != torch.float64 for t in operands):  # as for any matrix product
        dtype = torch.get_autocast_dtype(kind)
        operands = [t.to(dtype) for t in operands]
        attn_mask = None if attn_mask is None else attn_mask.to(dtype)
    run: Callable = torch._scaled_dot_product_attention_math
    with torch.autocast(kind, enabled=False) if rounds else contextlib.nullcontext():
        return run(*operands, attn_mask, dropout_p, is_causal, **options)[0]


def _usual() -> bool:
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and not transformed()


def with_attention(function: Any, attention: Callable) -> Any:
    """Return a function of torch.nn.functional that calls this attention.

    While a mode handles it, the calls that it makes itself are not seen. What has been put in the
    place of functions, of attention itself as well, is called as ever.
    """

    @functools.wraps(function)
    def ours(*args: Any, **kwargs: Any) -> Any:
        names = vars(F) | {"has_torch_function": lambda *_: False}
        if F.scaled_dot_product_attention is SDPA:
            names["scaled_dot_product_attention"] = attention
        run = FunctionType(function.__code__, names, argdefs=function.__defaults__)
        run.__kwdefaults__ = function.__kwdefaults__
        return run(*args, **kwargs)

    return ours


BY_MATH: dict[Callable, Callable] = {
    SDPA: attention,
    F.multi_head_attention_forward: with_attention(F.multi_head_attention_forward, attention),
}
