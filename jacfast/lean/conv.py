"""The input gradient of a convolution with few input channels.

Every image network begins with a convolution from 1 or 3 channels. Its input gradient is a
convolution *to* 1 or 3 channels, and those fill a small part of a vector register: it runs far
below the processor's rate and can take as long as the layers after it. Here a block of b x b
neighbouring pixels takes the place of the channels: one strided convolution, with a kernel made
from shifted copies of the weight, gives all C b^2 values of a block, and a pixel shuffle puts them
where they belong. More multiplications, several times as fast (benchmarks/README.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast.ops.lives import transformed

FEW = 4  # input channels; beyond, blocks gain nothing
FILL = 16  # C b^2 should come close to this: float32 numbers in the widest register


def few_channels(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return layer(x), with the input gradient by blocks where that is known to be faster."""
    if _applies(layer, x):
        return _Conv.apply(x, layer.weight, layer.bias, layer.stride[0], layer.padding)
    return nn.Conv2d.forward(layer, x)


def _applies(layer: nn.Conv2d, x: Tensor) -> bool:
    return (
        layer.in_channels <= FEW
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.stride[0] == layer.stride[1]
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and all(p < k for p, k in zip(layer.padding, layer.kernel_size, strict=True))
        and x.dim() == 4
        and x.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"  # on a GPU nothing is measured yet
        and x.dtype == layer.weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not transformed()
    )


class _Conv(torch.autograd.Function):
    """conv2d(x, weight) + bias."""

    first_derivative_batches = True  # see jacfast.vjp

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        conf, needs = (ctx.stride, ctx.padding), ctx.needs_input_grad
        return (
            _input_gradient(g, weight, x.shape, *conf) if needs[0] else None,
            _WeightGradient.apply(x, g, weight.shape, *conf) if needs[1] else None,
            g.sum((0, 2, 3)) if needs[2] else None,
            None,
            None,
        )


class _InputGradient(torch.autograd.Function):
    """The derivative of <conv2d(x, weight), g> in x: linear in g and in weight."""

    @staticmethod
    def forward(ctx, g, weight, shape, stride, padding):
        ctx.save_for_backward(g, weight)
        ctx.stride, ctx.padding = stride, padding
        return by_blocks(g, weight, shape, stride, padding)

    @staticmethod
    def backward(ctx, t):
        g, weight = ctx.saved_tensors
        conf, needs = (ctx.stride, ctx.padding), ctx.needs_input_grad
        return (
            _Conv.apply(t, weight, None, *conf) if needs[0] else None,
            _WeightGradient.apply(t, g, weight.shape, *conf) if needs[1] else None,
            None,
            None,
            None,
        )


class _WeightGradient(torch.autograd.Function):
    """The derivative of <conv2d(x, weight), g> in weight: linear in x and in g."""

    @staticmethod
    def forward(ctx, x, g, shape, stride, padding):
        ctx.save_for_backward(x, g)
        ctx.stride, ctx.padding = stride, padding
        mask, like = [False, True, False], x.new_empty(1).expand(shape)
        stock = torch.ops.aten.convolution_backward
        sizes = ([stride, stride], list(padding), [1, 1])
        return stock(g, x, like, None, *sizes, False, [0, 0], 1, mask)[1]

    @staticmethod
    def backward(ctx, t):
        x, g = ctx.saved_tensors
        conf, needs = (ctx.stride, ctx.padding), ctx.needs_input_grad
        return (
            _input_gradient(g, t, x.shape, *conf) if needs[0] else None,
            _Conv.apply(x, t, None, *conf) if needs[1] else None,
            None,
            None,
            None,
        )


def _input_gradient(g, weight, shape, stride, padding) -> Tensor:
    # without a graph the plain function, which a batched (vmap) backward can go through
    run = _InputGradient.apply if torch.is_grad_enabled() else by_blocks
    return run(g, weight, shape, stride, padding)


def by_blocks(
    g: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: tuple[int, int]
) -> Tensor:
    """Return the derivative of ``<conv2d(x, weight), g>`` in x.

    Args:
        g: [N, O, H', W'], the cotangent of the output.
        weight: [O, C, kH, kW].
        shape: of x, [N, C, H, W].
        stride: of both directions.
        padding: less than the kernel's size in both directions.
    """
    block = stride * max(1, round((FILL / weight.shape[1]) ** 0.5 / stride))
    rows, row_taps, top = _line(weight.shape[2], block, stride, padding[0], shape[2], g.shape[2])
    columns, column_taps, left = _line(
        weight.shape[3], block, stride, padding[1], shape[3], g.shape[3]
    )
    kernel = F.pad(weight, (0, 1, 0, 1))[:, :, row_taps][..., column_taps]  # [O, C, b, E, b, E']
    kernel = kernel.permute(1, 2, 4, 0, 3, 5).flatten(0, 2)  # [C b b, O, E, E']
    step = block // stride
    blocks = F.conv2d(g, kernel, stride=step, padding=(top, left))
    # the padding is a whole number of blocks too large at the front, and may be at the end
    skip = [(p - before) // step for p, before in ((top, rows[1]), (left, columns[1]))]
    # narrow, and no slices: those have no rule under a batched backward
    blocks = blocks.narrow(2, skip[0], rows[0]).narrow(3, skip[1], columns[0])
    return F.pixel_shuffle(blocks, block).narrow(2, 0, shape[2]).narrow(3, 0, shape[3])


def _line(kernel: int, block: int, stride: int, padding: int, size: int, outputs: int):
    """Lay blocks along one direction, in which x has `size` entries and g `outputs`.

    Entry u of block m is x[block m + u], which receives g[o] weight[t] for stride o = block m + u +
    padding - t. So block m needs the outputs from (block m + padding - kernel + 1) / stride on.

    Returns:
        (number of blocks, outputs needed before the first), the tap [block, E] that output e of
        those a block needs contributes to its entry u (the number past the last tap for none), and
        the padding of g.
    """
    first = -((kernel - 1 - padding) // stride)
    last = (block - 1 + padding) // stride
    u = torch.arange(block)[:, None]
    taps = u + padding - stride * torch.arange(first, last + 1)
    taps = torch.where((taps >= 0) & (taps < kernel), taps, kernel)
    count, step = -(-size // block), block // stride
    after = (count - 1) * step + last + 1 - outputs
    pad = -first + step * max(0, -(-(after + first) // step))
    return (count, -first), taps, pad
