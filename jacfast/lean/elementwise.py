"""ReLU: where it is 0 is a constant to autograd.

PyTorch's derivative of its backward pass sends a tensor of zeros through the layers before it.
Without it the gradient of the penalty does not touch the forward graph.
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
