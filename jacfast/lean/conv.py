"""Convolutions of 1 to 3 dimensions, their weight a constant to autograd, its gradient in a sink.

PyTorch computes the weight gradient of a convolution's second derivative as a forward convolution
with a kernel as large as the feature map, group by group. It is the weight gradient of the tangent
with the cotangent, for which there is a routine.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jacfast.lean.blocks import by_blocks, pays
from jacfast.lean.sink import Layer

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Shape(NamedTuple):
    """The numbers of a convolution, one per dimension but for the last."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Conv(torch.autograd.Function):
    """conv(x, weight) + bias."""

    first_derivative_batches = True  # see jacfast.vjp

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: Layer) -> Tensor:
        ctx.save_for_backward(x if layer.trained else None, layer.weight.detach())
        ctx.layer, ctx.size = layer, x.shape
        return _conv(x, layer.weight, layer.bias, layer.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        layer = ctx.layer
        layer.sink.check_open()
        if torch.is_grad_enabled():
            return _Pull.apply(g, layer.sink.anchor, layer, ctx.size), None, None
        if layer.sink.collecting:
            if layer.trained:
                layer.sink.add(layer.weight, _weight_gradient(g, x, weight, layer.shape))
            if layer.bias in layer.sink.parameters:
                layer.sink.add(layer.bias, g.sum([d for d in range(g.dim()) if d != 1]))
            if layer.skip:
                return None, None, None
        return _input_gradient(g, weight, layer.shape, ctx.size), None, None


class _Pull(torch.autograd.Function):
    """The cotangent of the input: a linear function of g, whose derivative is the tangent."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, anchor: Tensor, layer: Layer, size: torch.Size) -> Tensor:
        ctx.save_for_backward(g, layer.weight.detach())
        ctx.layer = layer
        return _input_gradient(g, layer.weight, layer.shape, size)

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple:  # type: ignore[override]
        g, weight = ctx.saved_tensors
        layer = ctx.layer
        if torch.is_grad_enabled():  # the model itself differentiates
            return Conv.apply(t, layer.sink.anchor, layer.of_tangent()), None, None, None
        if layer.sink.collecting and layer.trained:
            layer.sink.add(layer.weight, _weight_gradient(g, t, weight, layer.shape))
        return _conv(t, weight, None, layer.shape), None, None, None


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    bias = None if bias is None else bias.to(x.dtype)
    return CONVS[x.dim() - 2](x, weight.to(x.dtype), bias, *shape)


def _weight_gradient(g: Tensor, x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    return _backward(g, x, weight.to(x.dtype), shape, [False, True, False])[1]


def _input_gradient(g: Tensor, weight: Tensor, shape: Shape, size: torch.Size) -> Tensor:
    weight = weight.to(g.dtype)
    if g.device.type == "cpu" and pays(weight, *shape):  # on a GPU nothing is measured yet
        return by_blocks(g, weight, size, shape.stride[0], (shape.padding[0], shape.padding[1]))
    return _backward(g, g.new_empty(1).expand(size), weight, shape, [True, False, False])[0]


def _backward(g: Tensor, x: Tensor, weight: Tensor, shape: Shape, mask: list[bool]) -> list[Tensor]:
    run, zero = torch.ops.aten.convolution_backward, [0] * len(shape.stride)
    return run(g, x, weight, None, *shape[:3], False, zero, shape.groups, mask)
