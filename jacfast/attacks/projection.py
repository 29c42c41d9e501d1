"""The shortest vector of a box and a few half-spaces, in the 2-norm, sample by sample."""

import itertools
import math

import torch
from torch import Tensor

ROUNDS, CUTS = 20, 20  # at most, of Newton and of a search along a line: two or three are the rule
CLOSE = 1e-6  # of the distance of the farthest half-space: what products in float32 resolve


def shortest(low: Tensor, high: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """Return the r of least ``||r||_2`` with ``low <= r <= high`` and ``w_i . r >= c_i``.

    The dual, ``max_{a >= 0} min_{low <= r <= high} ||r||^2 / 2 + sum_i a_i (c_i - w_i . r)``, has
    m variables, is concave and piecewise quadratic, and its inner minimum is at
    ``r(a) = clamp(sum_i a_i w_i, low, high)``. A round maximises the quadratic piece at a over
    ``a >= 0`` (by trying the 2^m sets of multipliers that are not zero), and goes that way as far
    as the dual rises.

    Args:
        low, high: [n, D], ``low <= 0 <= high``, infinite where there is no bound.
        w: [n, m, D], rows of 2-norm 1, or 0 where there is no half-space.
        c: [n, m] float64, -inf where there is no half-space.

    Returns:
        [n, D], in the dtype of w. Where no r fulfils all, some bounded r of the box.
    """
    return solve(low, high, w, c)[0]


def solve(low: Tensor, high: Tensor, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return `shortest`, and the multipliers a [n, m] float64.

    Where no r fulfils all, a is a combination of the half-spaces that misses the box, if one is
    met: ``max_r (sum_i a_i w_i) . r < sum_i a_i c_i``.
    """
    there = c > -math.inf
    c = torch.where(there, c, 0)
    a, r = torch.zeros_like(c), torch.zeros_like(low)
    here = torch.arange(len(a), device=a.device)
    close = CLOSE * c.abs().amax(dim=1)
    for _ in range(ROUNDS):
        part = _Part(low[here], high[here], w[here], c[here], there[here])
        free = part.sum(a[here])
        r[here] = free.clamp(part.low, part.high)
        slope = part.c - part.along(r[here])
        rising = torch.where(a[here] > 0, slope.abs(), slope).masked_fill(~part.there, 0)
        reach = torch.where(free > 0, free * part.high, free * part.low).sum(dim=1).double()
        possible = ~(reach < (a[here] * part.c).sum(dim=1))
        left = (rising.amax(dim=1) > close[here]) & possible
        if not bool(left.any()):
            break
        here, part, free, slope = here[left], part[left], free[left], slope[left]
        inside = (free > part.low) & (free < part.high)
        step = _best(part.gram(inside), slope, a[here], part.there) - a[here]
        a[here] += part.rise(a[here], step)[:, None] * step
    return r, a


class _Part:
    """The box and the half-spaces of some samples."""

    def __init__(self, low: Tensor, high: Tensor, w: Tensor, c: Tensor, there: Tensor) -> None:
        self.low, self.high, self.w, self.c, self.there = low, high, w, c, there

    def __getitem__(self, here: Tensor) -> "_Part":
        return _Part(*(t[here] for t in (self.low, self.high, self.w, self.c, self.there)))

    def sum(self, a: Tensor) -> Tensor:
        """Return ``sum_i a_i w_i`` [n, D]."""
        return torch.einsum("nm,nmd->nd", a.to(self.w.dtype), self.w)

    def along(self, r: Tensor) -> Tensor:
        """Return ``w_i . r`` [n, m]."""
        return torch.einsum("nmd,nd->nm", self.w, r).double()

    def gram(self, inside: Tensor) -> Tensor:
        """Return minus the dual's second derivative [n, m, m]: products over the free entries."""
        gram = torch.einsum("nid,njd->nij", self.w * inside[:, None], self.w).double()
        ridge = 1e-9 * gram.diagonal(dim1=1, dim2=2).amax(dim=1) + 1e-30
        return gram + torch.diag_embed(ridge[:, None].expand(-1, gram.shape[1]))

    def rise(self, a: Tensor, step: Tensor) -> Tensor:
        """Return in (0, 1] how far the dual rises along `step`: a zero of its falling slope."""
        base, way, offer = self.sum(a), self.sum(step), (self.c * step).sum(dim=1)

        def slope(t: Tensor) -> Tensor:
            r = (base + t[:, None].to(base.dtype) * way).clamp(self.low, self.high)
            return offer - (way * r).sum(dim=1).double()

        t, low, high = torch.ones_like(offer), torch.zeros_like(offer), torch.ones_like(offer)
        first, last = slope(low), slope(high)
        enough = CLOSE * first.abs()
        beyond = last < -enough
        for _ in range(CUTS):
            if not bool(beyond.any()):
                break
            guess = low + (high - low) * (first / (first - last)).clamp(0.05, 0.95)
            t = torch.where(beyond, guess, t)
            now = slope(t)
            up, down = beyond & (now > 0), beyond & (now <= 0)
            low, first = torch.where(up, t, low), torch.where(up, now, first)
            high, last = torch.where(down, t, high), torch.where(down, now, last)
            beyond &= now.abs() > enough
        return t


def _best(gram: Tensor, slope: Tensor, a: Tensor, there: Tensor) -> Tensor:
    """Return the b >= 0 [n, m] with the largest ``slope . (b - a) - (b - a) gram (b - a) / 2``.

    Of half-spaces that are not `there`, b is 0.
    """
    linear = slope + torch.einsum("nij,nj->ni", gram, a)
    best, most = a.clone(), torch.full_like(a[:, 0], -math.inf)
    every = range(a.shape[1])
    for some in itertools.chain(*(itertools.combinations(every, k) for k in range(len(every) + 1))):
        b, pick = torch.zeros_like(a), list(some)
        if pick:
            b[:, pick] = torch.linalg.solve(gram[:, pick][:, :, pick], linear[:, pick])
        value = (linear * b).sum(dim=1) - torch.einsum("ni,nij,nj->n", b, gram, b) / 2
        better = ((b >= 0) & (there | (b == 0))).all(dim=1) & (value > most)
        best = torch.where(better[:, None], b, best)
        most = torch.where(better, value, most)
    return best
