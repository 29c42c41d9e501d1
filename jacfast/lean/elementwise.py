"""ReLU and max-pooling: what they choose is a constant, and autograd is told so.

PyTorch's derivative of their backward passes sends a tensor of zeros through the layers before
them. Without it the gradient of the penalty does not touch the forward graph.
"""

from typing import Any

import torch
from torch import Tensor


class ReLU(torch.autograd.Function):
    """max(x, 0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.relu()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return _Mask.apply(g, y.detach())


class ReLUInPlace(ReLU):
    """The same, in x itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x.relu_())
        ctx.save_for_backward(x)
        return x


class _Mask(torch.autograd.Function):
    """g where y > 0, else 0: its own derivative."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return torch.ops.aten.threshold_backward(g, y, 0)

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(t, y, 0), None


class MaxPool2d(torch.autograd.Function):
    """The largest entry of each window, of x [N, C, H, W]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple) -> Tensor:
        y, chosen = torch.ops.aten.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(x, chosen)
        ctx.window = window
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        x, chosen = ctx.saved_tensors
        return _Scatter.apply(g, x.detach(), chosen, ctx.window), None


class _Scatter(torch.autograd.Function):
    """Each entry of g to where its window's largest entry was; its derivative gathers them."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, chosen: Tensor, window: tuple) -> Tensor:
        ctx.save_for_backward(chosen)
        return torch.ops.aten.max_pool2d_with_indices_backward(g, x, *window, chosen)

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple:  # type: ignore[override]
        (chosen,) = ctx.saved_tensors
        return t.flatten(2).gather(2, chosen.flatten(2)).view(chosen.shape), None, None, None
