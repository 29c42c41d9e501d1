"""Max-pooling in two dimensions: which entries it chooses is a constant to autograd.

As with ReLU, no zeros go through the layers before it. Plain windows run in our own ops, whose
choices take a byte each, and a ReLU just before them is folded in: a window that it cuts off is a
choice, too, so that neither sweep reads a mask and nothing of the ReLU is kept.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jacfast.ops import lives, max_pool, max_pool_gather, max_pool_scatter

Pair = tuple[int, int]
POOLS = (F.max_pool2d, torch.max_pool2d)


def plain(x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool) -> bool:
    """Say whether our ops can pool x [N, C, H, W], and are faster."""
    fits = 0 < kernel[0] <= x.shape[2] and 0 < kernel[1] <= x.shape[3] and min(stride) > 0
    usual = padding == (0, 0) and dilation == (1, 1) and not ceil
    # another layout would have to be copied, and the result would lose it
    same = x.is_contiguous() and (x.is_cuda or x.dtype != torch.float16)
    return fits and usual and same and kernel[0] * kernel[1] < 256 and lives.native(x)


class MaxPool2d(torch.autograd.Function):
    """The largest entry of each plain window; of x, or of y if that is max(x, 0)."""

    first_derivative_batches = True  # see jacfast.batching

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, kernel: Pair, stride: Pair) -> Tensor:
        output, choice = max_pool(x if y is None else y, kernel, stride, relu=y is not None)
        ctx.save_for_backward(choice)
        ctx.window = ((x.shape[2], x.shape[3]), kernel, stride)
        return output

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        (choice,) = ctx.saved_tensors
        rule = torch.is_grad_enabled() or lives.transformed()
        scatter = _Scatter.apply if rule else _scatter
        return scatter(g, choice, ctx.window), None, None, None


def _scatter(g: Tensor, choice: Tensor, window: tuple[Pair, Pair, Pair]) -> Tensor:
    return max_pool_scatter(g, choice, *window)


class _Scatter(torch.autograd.Function):
    """Each entry of g to where its window's largest entry was; its derivative gathers them."""

    @staticmethod
    def forward(g: Tensor, choice: Tensor, window: tuple[Pair, Pair, Pair]) -> Tensor:
        return _scatter(g, choice, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, choice, ctx.window = inputs
        ctx.save_for_backward(choice)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, g: Tensor, choice: Tensor, window: tuple) -> tuple:
        """Take the rows of a batched backward pass as samples: the op itself has no rule."""
        rows = [
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip((g, choice), in_dims, strict=False)
        ]
        many = _Scatter.apply(*(t.flatten(0, 1) for t in rows), window)
        return many.unflatten(0, rows[0].shape[:2]), 0

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple:  # type: ignore[override]
        (choice,) = ctx.saved_tensors
        _, kernel, stride = ctx.window
        return max_pool_gather(t, choice, kernel, stride), None, None


class StockMaxPool2d(torch.autograd.Function):
    """The same by PyTorch's routines: padded and dilated windows, and whatever is not plain."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple) -> Tensor:
        y, chosen = torch.ops.aten.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(x, chosen)
        ctx.window = window
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        x, chosen = ctx.saved_tensors
        return _StockScatter.apply(g, x.detach(), chosen, ctx.window), None


class _StockScatter(torch.autograd.Function):
    """Each entry of g to where its window's largest entry was; its derivative gathers them."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, chosen: Tensor, window: tuple) -> Tensor:
        ctx.save_for_backward(chosen)
        return torch.ops.aten.max_pool2d_with_indices_backward(g, x, *window, chosen)

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple:  # type: ignore[override]
        (chosen,) = ctx.saved_tensors
        return t.flatten(2).gather(2, chosen.flatten(2)).view(chosen.shape), None, None, None
