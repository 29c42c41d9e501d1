"""The linear layer, its weight a constant to autograd and its gradient in a sink."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jacfast.lean.sink import Layer


class Linear(torch.autograd.Function):
    """x W^T + b, for x [R, I] and W [O, I]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: Layer) -> Tensor:
        ctx.save_for_backward(x if layer.trained else None, layer.weight.detach())
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return F.linear(x, layer.weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        layer = ctx.layer
        layer.sink.check_open()
        if torch.is_grad_enabled():
            return _Pull.apply(g, layer.sink.anchor, layer), None, None
        if layer.sink.collecting:
            if layer.trained:
                layer.sink.add_product(layer.weight, g, x)
            if layer.bias in layer.sink.parameters:
                layer.sink.add(layer.bias, g.sum(0))
            if layer.skip:
                return None, None, None
        return g @ weight.to(g.dtype), None, None


class _Pull(torch.autograd.Function):
    """The cotangent of the input, g W: a linear function of g, whose derivative is the tangent."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, anchor: Tensor, layer: Layer) -> Tensor:
        ctx.save_for_backward(g, layer.weight.detach())
        ctx.layer = layer
        return g @ layer.weight.to(g.dtype)

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple:  # type: ignore[override]
        g, weight = ctx.saved_tensors
        layer = ctx.layer
        if torch.is_grad_enabled():  # the model itself differentiates
            return Linear.apply(t, layer.sink.anchor, layer.of_tangent()), None, None
        if layer.sink.collecting:
            layer.sink.add_product(layer.weight, g, t)
        return F.linear(t, weight.to(t.dtype)), None, None
