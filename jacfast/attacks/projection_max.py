"""The shortest vector of a box and a few half-spaces, in the maximum norm, sample by sample."""

import math

import torch
from torch import Tensor

from jacfast.attacks.projection import CLOSE, solve

SLACK = 5e-4  # by which r may be too long: at the least length it is a corner, hard to find
ROUNDS, STEPS = 10, 30  # at most, for the length with several half-spaces, and with one


def shortest_max(low: Tensor, high: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """Return an r of least ``||r||_inf`` with r in the box and ``w_i . r >= c_i``.

    It is too long by 0.05% as a rule, and by some thousandths where half-spaces meet in a corner.

    A small linear program. With one half-space the length is a zero of a concave function of one
    variable (`length_of_one`). That of any combination ``sum_i a_i w_i . r >= sum_i a_i c_i``,
    ``a >= 0``, is at most the length for all; so the least length t grows to the largest one found.
    For t, the r of least 2-norm with ``|r| <= t`` is looked for; where there is none, its
    multipliers are the next combination. After ten rounds r may miss a half-space.

    Arguments and result are those of `jacfast.attacks.projection.shortest`.
    """
    goal = torch.where(c > -math.inf, c, 0)
    t = torch.stack([length_of_one(low, high, w[:, i], goal[:, i]) for i in range(w.shape[1])])
    t = t.amax(dim=0)
    r = torch.zeros_like(low)
    here = torch.arange(len(t), device=t.device)
    for number in range(ROUNDS):
        most = (t[here] * (1 + SLACK)).to(r.dtype)[:, None]
        part = (low[here].maximum(-most), high[here].minimum(most), w[here], c[here])
        r[here], a = solve(*part)
        missed = goal[here] - torch.einsum("nmd,nd->nm", w[here], r[here]).double()
        left = missed.amax(dim=1) > 2 * CLOSE * goal[here].abs().amax(dim=1)
        if not bool(left.any()):
            break
        here, a = here[left], a[left] / a[left].sum(dim=1, keepdim=True)
        joined = torch.einsum("nm,nmd->nd", a.to(w.dtype), w[here])
        longer = length_of_one(low[here], high[here], joined, (a * goal[here]).sum(dim=1))
        t[here] = torch.maximum(longer, t[here] * (1 + 2**number * SLACK))
    return r


def length_of_one(low: Tensor, high: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """Return the least ``||r||_inf`` [n], float64, with r in the box and ``w . r >= c``.

    ``sum_j |w_j| min(t, room_j) = c``, with room_j the way that r_j has in the direction of w_j:
    concave and increasing in t, so Newton's steps from 0 rise to the zero in finitely many. Where
    there is none, the length at which the box is used up.

    Args:
        low, high, w: [n, D]; c: [n] float64.
    """
    room, size = torch.where(w > 0, high, -low), w.abs()
    t = torch.zeros_like(c)
    for _ in range(STEPS):
        here = t[:, None].to(size.dtype)
        lacking = c - (size * room.minimum(here)).sum(dim=1).double()
        slope = (size * (room > here)).sum(dim=1).double()
        step = torch.where((lacking > CLOSE * c) & (slope > 0), lacking / slope, 0)
        if not bool((step > 0).any()):
            break
        t = t + step
    return t
