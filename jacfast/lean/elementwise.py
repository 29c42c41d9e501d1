"""Activations of pieces of lines: where which piece is, is a constant to autograd.

PyTorch's derivative of their backward passes sends a tensor of zeros through the layers before
them. Without it the gradient of the penalty does not touch the forward graph.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Run = Callable[[Tensor], Tensor]
Slope = Callable[[Tensor, Tensor], Tensor]  # of g and y: g f'(x), where y = f(x) tells f'(x)


class Piecewise(torch.autograd.Function):
    """y = run(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Run, slope: Slope) -> Tensor:
        y = run(x)
        ctx.save_for_backward(y)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return _Slope.apply(g, y.detach(), ctx.slope), None, None


class PiecewiseOfInput(Piecewise):
    """The same, where f'(x) is told by x as by f(x), and PyTorch keeps x: f(x) may be changed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Run, slope: Slope) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return run(x)


class PiecewiseInPlace(Piecewise):
    """The same, where `run` changes x itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Run, slope: Slope) -> Tensor:
        ctx.mark_dirty(run(x))
        ctx.save_for_backward(x)
        ctx.slope = slope
        return x


class _Slope(torch.autograd.Function):
    """slope(g, y): its own derivative."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor, slope: Slope) -> Tensor:
        ctx.save_for_backward(y)
        ctx.slope = slope
        return slope(g, y)

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return ctx.slope(t, y), None, None


def of_relu(g: Tensor, y: Tensor) -> Tensor:
    """Return g where y > 0, else 0."""
    return torch.ops.aten.threshold_backward(g, y, 0)
