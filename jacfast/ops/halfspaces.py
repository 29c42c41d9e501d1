"""`halfspace_projection` in PyTorch: the definition, in float64, a batch at a time."""

import dataclasses
import itertools
import math

import torch
from torch import Tensor

RIDGE = 1e-9  # beside products of unit vectors: makes the multipliers unique
CLOSE = 1e-8  # of the largest miss of r = 0: a slope of the dual that is none
FLAT = 0.3  # of the slope before: a maximum along a line
ROUNDS, TRIALS = 100, 20  # at most, of an ascent and along a line: three and one are the rule
SHARE = 5  # p = 1: the threshold, over the 1-norm of the r of least 2-norm
SLACK, MET = 5e-4, 1e-6  # p = inf: by which r may be too long; a miss that is none


def reference(low: Tensor, high: Tensor, w: Tensor, c: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Compute `halfspace_projection` in PyTorch: the definition."""
    at = _Halfspaces.of(low, high, w, c)
    if p == math.inf:
        a, limit = _flatten(at)
        at = at.within(limit)
    else:
        a = _ascend(at)
    if p == 1:
        r = at.sums(a).r
        at.threshold = SHARE * r.abs().sum(dim=1) * (at.missed(r) <= MET * at.first)
        a = _ascend(at)
    r = at.sums(a).r
    return r.to(low.dtype), at.missed(r)


@dataclasses.dataclass
class _Halfspaces:
    """Those of a batch, and its box."""

    low: Tensor  # [n, D], at most 0
    high: Tensor  # [n, D], at least 0
    w: Tensor  # [n, m, D], of length 1, or 0 where a half-space is left out
    goal: Tensor  # [n, m], 0 there
    threshold: Tensor  # [n], by which entries of r are nearer to 0 than those joined

    @classmethod
    def of(cls, low: Tensor, high: Tensor, w: Tensor, c: Tensor) -> "_Halfspaces":
        low, high = (
            torch.where(keep, t, 0).double() for keep, t in ((low < 0, low), (high > 0, high))
        )
        norm = torch.linalg.vector_norm(w, dim=2, dtype=torch.float64)
        there = (norm > torch.finfo(w.dtype).tiny) & norm.isfinite() & c.isfinite()
        norm = torch.where(there, norm, 1)
        unit = torch.where(there[..., None], w.double() / norm[..., None], 0)
        goal = torch.where(there, c / norm, 0)
        return cls(low, high, unit, goal, torch.zeros_like(goal[:, 0]))

    def __getitem__(self, here: Tensor) -> "_Halfspaces":
        return _Halfspaces(*(t[here] for t in vars(self).values()))

    def within(self, limit: Tensor) -> "_Halfspaces":
        """Return them with entries of r up to `limit` [n]."""
        most = limit[:, None]
        low, high = self.low.maximum(-most), self.high.minimum(most)
        return dataclasses.replace(self, low=low, high=high)

    @property
    def first(self) -> Tensor:
        """Return the largest miss of r = 0 [n]."""
        return self.goal.amax(dim=1).clamp(min=0)

    def missed(self, r: Tensor) -> Tensor:
        along = torch.einsum("nmd,nd->nm", self.w, r)
        return (self.goal - along).amax(dim=1).clamp(min=0)

    def joined(self, a: Tensor) -> Tensor:
        """Return ``sum_i a_i w_i`` [n, D]."""
        return torch.einsum("nm,nmd->nd", a, self.w)

    def sums(self, a: Tensor) -> "_Sums":
        """Return what the dual is like at a [n, m]."""
        joined, most = self.joined(a), self.threshold[:, None]
        v = joined - joined.clamp(-most, most)
        r = v.clamp(self.low, self.high)
        slope = self.goal - torch.einsum("nmd,nd->nm", self.w, r) - RIDGE * a
        gram = self.products((v == r) & (joined.abs() >= most))
        reach = torch.where(v > 0, v * self.high, torch.where(v < 0, v * self.low, 0))
        return _Sums(r, slope, gram + _ridge(gram), reach.sum(dim=1))

    def products(self, free: Tensor) -> Tensor:
        """Return the products of the half-spaces [n, m, m] over the entries `free` [n, D]."""
        return torch.einsum("nid,njd->nij", self.w * free[:, None], self.w)


@dataclasses.dataclass
class _Sums:
    r: Tensor  # [n, D], of the multipliers
    slope: Tensor  # [n, m], of the dual there
    gram: Tensor  # [n, m, m], minus its second derivative
    reach: Tensor  # [n], the largest (sum_i a_i w_i) . r in the box

    def __getitem__(self, here: Tensor) -> "_Sums":
        return _Sums(*(t[here] for t in vars(self).values()))


def _ridge(gram: Tensor) -> Tensor:
    return RIDGE * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)


def _ascend(at: _Halfspaces, early: Tensor | None = None) -> Tensor:
    """Return the multipliers a [n, m] at which the dual is at its maximum.

    Or, where `early` [n], with which ``sum_i a_i w_i . r < sum_i a_i c_i`` for all r of the box.
    """
    a = torch.zeros_like(at.goal)
    first, full = at.first, at.products(torch.ones_like(at.low, dtype=torch.bool))
    # Up to a threshold the dual is flat, and multipliers are as many times larger as it is than r:
    # steps begin with these, and grow less fast, as too long a one ends far out.
    flat = at.threshold > 0
    damp, relief = torch.where(flat, (first / at.threshold).clamp(max=1), 0), 10 - 6 * flat.double()
    here = torch.arange(len(a), device=a.device)
    for _ in range(ROUNDS):
        some = at[here]
        now, b = some.sums(a[here]), a[here]
        rising = torch.where(b > 0, now.slope.abs(), now.slope).amax(dim=1)
        left = rising > CLOSE * first[here]
        if early is not None:
            left &= ~(early[here] & (now.reach < (b * some.goal).sum(dim=1)))
        here, some, now, b = here[left], some[left], now[left], b[left]
        if len(here) == 0:
            break
        model = now.gram + damp[here, None, None] * full[here]
        step = _maximise(model, now.slope + _times(model, b)) - b
        rise = (now.slope * step).sum(dim=1)
        curve = (step * _times(full[here], step)).sum(dim=1).clamp(min=1e-300)
        way = _search(some, b, step, rise, curve)
        # a step that led too far tells how many more entries were free on it
        more = (rise * (1 / way - 1) / curve).clamp(max=1)
        less = torch.where(damp[here] > 1e-12, damp[here] / relief[here], 0)
        damp[here] = torch.where(way < 1, more, less)
        a[here] = torch.where((rise > 0)[:, None], b + way[:, None] * step, b)
        here = here[rise > 0]
    return a


def _search(at: _Halfspaces, a: Tensor, step: Tensor, rise: Tensor, curve: Tensor) -> Tensor:
    """Return the part of the step, in (0, 1], after which the dual rises hardly along it.

    Args:
        rise, curve: [n], its slope where the step begins, and minus its second derivative at most.
    """
    way, low, high = torch.ones_like(rise), torch.zeros_like(rise), torch.ones_like(rise)
    low_slope, high_slope, left = rise, torch.zeros_like(rise), rise > 0
    for trial in range(TRIALS):
        sums = at.sums(a + way[:, None] * step)
        slope = (sums.slope * step).sum(dim=1)
        left = left & ~((slope >= -FLAT * rise) & ((slope <= FLAT * rise) | (trial == 0)))
        if not bool(left.any()) or trial == TRIALS - 1:
            break
        up = slope > 0
        low, low_slope = torch.where(up, way, low), torch.where(up, slope, low_slope)
        high, high_slope = torch.where(up, high, way), torch.where(up, high_slope, slope)
        newton = (way + slope / (step * _times(sums.gram, step)).sum(dim=1) - low) / (high - low)
        chord = (low_slope / (low_slope - high_slope)).clamp(0.01, 0.99)
        part = low + (high - low) * torch.where((newton > 0.01) & (newton < 0.99), newton, chord)
        if trial == 0:  # where the slope cannot be negative yet
            part = torch.where(rise < 0.5 * curve, rise / curve, part)
        way = torch.where(left, part, way)
    return way


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("nij,nj->ni", matrix, vector)


def _maximise(model: Tensor, linear: Tensor) -> Tensor:
    """Return the b >= 0 [n, m] with the largest ``linear . b - b model b / 2``.

    By trying each set of entries that are not 0.
    """
    best, most = torch.zeros_like(linear), torch.zeros_like(linear[:, 0])
    every = range(linear.shape[1])
    for some in itertools.chain(*(itertools.combinations(every, k + 1) for k in every)):
        b, pick = torch.zeros_like(linear), list(some)
        b[:, pick] = torch.linalg.solve(model[:, pick][:, :, pick], linear[:, pick])
        value = (linear * b).sum(dim=1)  # twice that at the maximum over these
        better = (b >= 0).all(dim=1) & (value > most)
        best, most = torch.where(better[:, None], b, best), torch.where(better, value, most)
    return best


def _flatten(at: _Halfspaces) -> tuple[Tensor, Tensor]:
    """Return multipliers [n, m] and the limit of the entries of r [n], as short as can be."""
    length = torch.zeros_like(at.goal[:, 0])
    for i in range(at.w.shape[1]):
        length = _lengthened(at, at.w[:, i], at.goal[:, i], length)
    a, limit = torch.zeros_like(at.goal), length.clone()
    here, early = torch.arange(len(a), device=a.device), torch.ones_like(length, dtype=torch.bool)
    for _ in range(ROUNDS):
        some = at[here]
        limit[here] = length[here] * (1 + SLACK)
        limited = some.within(limit[here])
        a[here] = _ascend(limited, early[here])
        left = some.missed(limited.sums(a[here]).r) > MET * some.first
        here, some = here[left], some[left]
        if len(here) == 0:
            break
        b = a[here] / a[here].sum(dim=1, keepdim=True)  # a combination that all r miss
        longer = _lengthened(some, some.joined(b), (b * some.goal).sum(dim=1), length[here])
        farther, again = longer > limit[here], early[here]
        length[here] = torch.where(farther, longer, length[here])
        early[here] = farther
        here = here[farther | again]  # of the others the box is used up
    return a, limit


def _lengthened(at: _Halfspaces, v: Tensor, goal: Tensor, length: Tensor) -> Tensor:
    """Return the largest entry that r with ``v . r >= goal`` has at least, or `length` if more [n].

    ``sum_j |v_j| min(t, room_j) = goal``, with room_j the way that r_j has in the direction of v_j,
    is concave in t, so Newton's steps from below rise to its zero in finitely many.
    """
    room, size = torch.where(v > 0, at.high, -at.low), v.abs()
    for _ in range(ROUNDS):
        lacking = goal - (size * room.minimum(length[:, None])).sum(dim=1)
        slope = (size * (room > length[:, None])).sum(dim=1)
        step = torch.where((lacking > 1e-10 * goal) & (slope > 0), lacking / slope, 0)
        if not bool((step > 0).any()):
            break
        length = length + step
    return length
