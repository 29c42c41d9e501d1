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
from torch import Tensor

FEW = 4  # input channels; beyond, blocks gain nothing
FILL = 16  # C b^2 should come close to this: float32 numbers in the widest register


def pays(
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> bool:
    """Say whether `by_blocks` can do a convolution, and is known to be faster."""
    return (
        weight.dim() == 4
        and weight.shape[1] <= FEW
        and weight.dtype in (torch.float32, torch.float64)
        and groups == 1
        and dilation == (1, 1)
        and stride[0] == stride[1]
        and all(p < k for p, k in zip(padding, weight.shape[2:], strict=True))
    )


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
    u = torch.arange(block, device="cpu")[:, None]
    taps = u + padding - stride * torch.arange(first, last + 1, device="cpu")
    taps = torch.where((taps >= 0) & (taps < kernel), taps, kernel)
    count, step = -(-size // block), block // stride
    after = (count - 1) * step + last + 1 - outputs
    pad = -first + step * max(0, -(-(after + first) // step))
    return (count, -first), taps, pad
