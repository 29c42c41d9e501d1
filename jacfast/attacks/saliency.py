"""The pixel, or the pair of pixels, of greatest saliency."""

import torch
from torch import Tensor

BLOCK = 2**20  # pairs compared at once


def best_pixel(a: Tensor, b: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``argmax_i a_i |b_i|`` over the allowed pixels with a_i > 0 > b_i, the lowest on ties.

    Args:
        a, b: [N, D]. allowed: [N, D] bool.

    Returns:
        [N, 1] int64, and [N] bool: whether one qualifies.
    """
    score = torch.where(allowed & (a > 0) & (b < 0), -a * b, 0)
    best, pixel = score.max(dim=1, keepdim=True)
    return pixel, best[:, 0] > 0


def best_pair(a: Tensor, b: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pair i < j of allowed pixels with the greatest ``(a_i + a_j) |b_i + b_j|``.

    It qualifies where ``a_i + a_j > 0 > b_i + b_j``; the lowest i, then j, on ties. Only pixels
    that at most one other surpasses in both a and -b are compared; in blocks, with a running best.

    Args:
        a, b: [N, D]. allowed: [N, D] bool.

    Returns:
        [N, 2] int64, and [N] bool: whether a pair qualifies.
    """
    pixels = _candidates(a, b, allowed)
    a, b, allowed = (t.gather(1, pixels) for t in (a, b, allowed))
    samples, count = pixels.shape
    best = a.new_zeros(samples)
    pair = pixels.new_zeros(samples, 2)
    height = max(1, BLOCK // (samples * count))
    for start in range(0, count, height):
        score, at = _block(a, b, allowed, slice(start, start + height))
        better = score > best
        best = torch.where(better, score, best)
        width = count - start
        here = torch.stack([start + at // width, start + at % width], dim=1)
        pair = torch.where(better[:, None], here, pair)
    return pixels.gather(1, pair), best > 0


def _block(a: Tensor, b: Tensor, allowed: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Return the best score [N] of pairs (i in rows, j >= rows.start), 0 if none, and its index."""
    tail = slice(rows.start, None)
    more = a[:, rows, None] + a[:, None, tail]
    less = b[:, rows, None] + b[:, None, tail]
    fits = allowed[:, rows, None] & allowed[:, None, tail] & (more > 0) & (less < 0)
    fits &= torch.ones_like(fits[0]).triu(1)  # i < j
    return torch.where(fits, -more * less, 0).flatten(1).max(dim=1)


def _candidates(a: Tensor, b: Tensor, allowed: Tensor) -> Tensor:
    """Return the pixels [N, C], in ascending order, that can be part of the best pair.

    The score grows with each a and each -b. So where a pixel has at most as much a and at most as
    much -b as two others, one of these is free to take its place in a pair, and no score falls. In
    the order of falling a, then index, a pixel is kept if its b is below every one before it, or
    is so once the pixels kept thus are left out: each other has two such before it. Samples in
    which fewer than C are kept are filled up with others.
    """
    a = a.masked_fill(~allowed, float("-inf"))
    b = b.masked_fill(~allowed, float("inf"))
    order = a.argsort(dim=1, descending=True, stable=True)
    sorted_b = b.gather(1, order)
    kept = _new_minimum(sorted_b)
    kept |= _new_minimum(sorted_b.masked_fill(kept, float("inf")))
    count = max(2, int(kept.sum(dim=1).max()))
    first = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
    return order.gather(1, first).sort(dim=1).values


def _new_minimum(values: Tensor) -> Tensor:
    """Say which entries of each row are below all entries before them."""
    least = values.cummin(dim=1).values
    before = torch.cat([torch.full_like(least[:, :1], float("inf")), least[:, :-1]], dim=1)
    return values < before
