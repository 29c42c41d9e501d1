"""Max-pooling, its scatter and its choices, from PyTorch's max_pool2d, in float64."""

import torch
import torch.nn.functional as F

from jacfast.ops.max_pool import DEAD

# (kernel, stride): side by side, overlapping down and across, apart.
WINDOWS = [
    ((2, 2), (2, 2)),
    ((3, 3), (2, 2)),
    ((3, 3), (1, 1)),
    ((2, 3), (1, 2)),
    ((1, 1), (1, 1)),
    ((2, 2), (3, 1)),
    ((1, 2), (2, 3)),
]
# Around the tiles of the CPU kernels, with an odd row or column left over.
SIZES = [(3, 3), (5, 6), (4, 31), (7, 32), (5, 35)]


def pooled(x, kernel, stride, relu):
    """Return max_pool of `x` by PyTorch's max_pool2d, in float64."""
    wide = x.detach().double().cpu()
    value, index = F.max_pool2d(wide, kernel, stride, return_indices=True)
    down = torch.arange(value.shape[2])[:, None] * stride[0]
    across = torch.arange(value.shape[3]) * stride[1]
    width = x.shape[3]
    choice = (index // width - down) * kernel[1] + index % width - across
    if relu:
        choice[value <= 0] = DEAD
        value = value.relu()
    return value, choice.to(torch.uint8)


def drawn_choice(life, shape, kernel, seed=0):
    """Return choices of all kinds: each entry of the window, dead, and numbers beyond both."""
    entries = kernel[0] * kernel[1]
    kinds = torch.tensor([*range(entries), DEAD, min(entries, DEAD), DEAD - 1])
    draw = torch.randint(len(kinds), shape, generator=torch.Generator().manual_seed(seed))
    return kinds[draw].to(torch.uint8).to(life.device)


def scattered(g, choice, size, kernel, stride):
    """Return max_pool_scatter in float64, one place of the windows after another."""
    out = torch.zeros(*g.shape[:2], *size, dtype=torch.float64)
    g, choice = g.detach().double().cpu(), choice.cpu().long()
    down, across = ((n - 1) * step + 1 for n, step in zip(g.shape[2:], stride, strict=True))
    for place in range(kernel[0] * kernel[1]):
        row, column = divmod(place, kernel[1])
        entries = out[:, :, row : row + down : stride[0], column : column + across : stride[1]]
        entries += torch.where(choice == place, g, 0)
    return out
