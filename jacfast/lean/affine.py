"""Layers that are affine in their input, A x + b, with A linear in a weight.

All sweeps then need three products: A x, A^T g, and the gradient of <A x, g> in the weight. PyTorch
differentiates its backward pass by general formulas instead; here the derivative of A^T g is A t,
and that in the weight is the gradient of <A t, g>.
"""

import abc
from typing import Any

import torch
from torch import Tensor

from jacfast.lean.sweep import COLLECT, PULL, Sweep

Wants = tuple[bool, bool, bool]
Gradients = tuple[Any, Any, Any]  # a tensor each, None for what is not wanted


class Layer(abc.ABC):
    """What a layer computes, of its weight and bias as constants, in the dtype of its input.

    Attributes:
        skip: whether nobody wants the gradient of the input in a sweep that collects.
    """

    def __init__(self, sweep: Sweep, weight: Any, bias: Tensor | None, skip: bool) -> None:
        self.sweep, self.weight, self.bias, self.skip = sweep, weight, bias, skip

    def constants(self) -> tuple[Tensor, ...]:
        """Return what else it is made of, to save: that a change of it in place is an error."""
        return ()

    @abc.abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """Return A x + b."""

    @abc.abstractmethod
    def push(self, t: Tensor) -> Tensor:
        """Return A t."""

    @abc.abstractmethod
    def pull(self, g: Tensor) -> Tensor:
        """Return A^T g."""

    @abc.abstractmethod
    def of_weight(self, g: Tensor, t: Tensor) -> Tensor:
        """Return the gradient of <A t, g> in the weight."""

    @abc.abstractmethod
    def gradients(self, g: Tensor, x: Tensor | None, wants: Wants) -> Gradients:
        """Return the gradients of <A x + b, g> in x, weight and bias, of those that are wanted."""


class Affine(torch.autograd.Function):
    """A x + b."""

    first_derivative_batches = True  # see jacfast.batching

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: Layer
    ) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, *layer.constants())
        ctx.layer = layer
        return layer.value(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        x, weight, *_ = ctx.saved_tensors
        layer = ctx.layer
        if torch.is_grad_enabled():
            layer.sweep.check_own()
            return Product.apply(g, weight, layer, True), None, None, None
        if layer.sweep.kind == PULL:
            return layer.pull(g), None, None, None
        of_x = not (layer.skip and layer.sweep.kind == COLLECT)
        _, of_weight, of_bias, _ = ctx.needs_input_grad
        return *layer.gradients(g, x, (of_x, of_weight, of_bias)), None


class Product(torch.autograd.Function):
    """A^T g if `back`, the cotangent of the input; else A t, of a tangent.

    Linear in the vector, so the derivative of each is the other one.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, weight: Tensor | None, layer: Layer, back: bool) -> Tensor:
        ctx.save_for_backward(v if ctx.needs_input_grad[1] else None, weight, *layer.constants())
        ctx.layer, ctx.back = layer, back
        return layer.pull(v) if back else layer.push(v)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple:  # type: ignore[override]
        v, weight, *_ = ctx.saved_tensors
        layer, back = ctx.layer, ctx.back
        if torch.is_grad_enabled():  # the model itself differentiates
            layer.sweep.check_own()
            return Product.apply(u, weight, layer, not back), None, None, None
        of_weight = None
        if layer.sweep.kind != PULL and v is not None:
            of_weight = layer.of_weight(v, u) if back else layer.of_weight(u, v)
        return layer.push(u) if back else layer.pull(u), of_weight, None, None
