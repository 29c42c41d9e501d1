"""Batch-norm with its running statistics: a scale and a shift per channel.

PyTorch's derivative of its backward pass touches the forward graph, and its backward pass takes a
gradient of one sample in some channels_last strides for one in others: a wrong result. This one
multiplies by the scale, in whatever layout.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jacfast.lean.sink import Sink


class Norm(NamedTuple):
    """What `EvalNorm` remembers of a call beside its input; weight and bias are [C] or None."""

    sink: Sink
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    variance: Tensor
    eps: float
    skip: bool  # no gradient of the input in sweeps that collect

    @property
    def trained(self) -> bool:
        """Whether the weight wants a gradient, for which the input must be kept."""
        return self.weight in self.sink.parameters

    def constants(self) -> tuple[Tensor | None, Tensor]:
        """Return what the scale is made of, to save: that a change of it in place is an error."""
        return None if self.weight is None else self.weight.detach(), self.variance


class EvalNorm(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, of x [N, C, ...]."""

    first_derivative_batches = True  # see jacfast.vjp

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, norm: Norm) -> Tensor:
        ctx.save_for_backward(x if norm.trained else None, norm.mean, *norm.constants())
        ctx.norm = norm
        _, weight, bias, mean, variance, eps, _ = norm
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        x, mean, weight, variance = ctx.saved_tensors
        norm = ctx.norm
        norm.sink.check_open()
        if torch.is_grad_enabled():
            return _Scale.apply(g, norm.sink.anchor, norm), None, None
        if norm.sink.collecting:
            if norm.trained:
                _add_weight(norm, (x - _per_channel(mean, x)) * g)
            if norm.bias is not None and norm.bias in norm.sink.parameters:
                norm.sink.add(norm.bias, _over_channels(g, norm.bias.dtype))
            if norm.skip:
                return None, None, None
        return _scaled(g, weight, variance, norm.eps), None, None


class _Scale(torch.autograd.Function):
    """The cotangent of the input, g times the scale; its derivative is the same of a tangent."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, anchor: Tensor, norm: Norm) -> Tensor:
        ctx.save_for_backward(g if norm.trained else None, *norm.constants())
        ctx.norm = norm
        return _scaled(g, *norm.constants(), norm.eps)

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple:  # type: ignore[override]
        g, weight, variance = ctx.saved_tensors
        norm = ctx.norm
        if torch.is_grad_enabled():  # the model itself differentiates
            return _Scale.apply(t, norm.sink.anchor, norm), None, None
        if norm.sink.collecting and norm.trained:
            _add_weight(norm, t * g)
        return _scaled(t, weight, variance, norm.eps), None, None


def _scaled(g: Tensor, weight: Tensor | None, variance: Tensor, eps: float) -> Tensor:
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    return (g * _per_channel(scale, g)).to(g.dtype)


def _add_weight(norm: Norm, product: Tensor) -> None:
    """Add the gradient of the weight, of which `product` / sqrt(variance + eps) are the terms."""
    total = _over_channels(product, norm.variance.dtype)
    norm.sink.add(norm.weight, total * (norm.variance + norm.eps).rsqrt())


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 2))


def _over_channels(terms: Tensor, dtype: torch.dtype) -> Tensor:
    return terms.sum([d for d in range(terms.dim()) if d != 1], dtype=dtype)
