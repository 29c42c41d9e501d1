"""The shortest vector of a box and a few half-spaces, for each sample: see there."""

import math

import torch
from torch import Tensor

from jacfast.checks import one_of
from jacfast.ops import checks, halfspaces, lives

MOST = 8  # half-spaces of a sample
NORMS = (1, 2, math.inf)


def halfspace_projection(
    low: Tensor, high: Tensor, w: Tensor, c: Tensor, p: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Return the r of least ``||r||_p`` with ``low <= r <= high`` and ``w_i . r >= c_i``.

    With r = q - x this is the projection q of x onto the box and the half-spaces.

    **p = 2.** The dual ``max_{a >= 0} min_r ||r||^2 / 2 + sum_i a_i (c_i - w_i . r)`` has one
    variable for each half-space, is concave and piecewise quadratic, and r = ``clamp(sum_i a_i
    w_i, low, high)``. A round maximises the quadratic piece at a over a >= 0 and goes that way to
    where the dual's slope is nearly 0; a sweep over the entries gives slope and second derivative,
    and some five sweeps are the rule. Each w_i counts with length 1, and 1e-9 is added to their
    products: so a is unique, where half-spaces are parallel, too, and r misses them by some 1e-9.

    **p = inf.** A linear program. With one half-space the least length t is a zero of a concave
    function. That of a combination ``sum_i a_i w_i . r >= sum_i a_i c_i``, a >= 0, is at most that
    of all. For 1.0005 t the r of least 2-norm is looked for; where there is none, its multipliers
    are the next combination. So r is too long by 0.05% at most: at the least length it is a corner.

    **p = 1.** A linear program, too. Of ``||r||_2^2 / 2 + t ||r||_1``, which for a large t is least
    where ``||r||_1`` is, the dual is that of p = 2 with ``r = clamp(v - clamp(v, -t, t), low,
    high)``, v = ``sum_i a_i w_i``. t is five times ``||r_2||_1``, r_2 being the r of p = 2. So r is
    too long by at most a tenth of ``||r*||_inf / ||r_2||_1``, with r* the shortest: on digits by
    0.03% at most. Multipliers are larger, so r misses half-spaces by more, there by up to 2e-5.

    The box always holds 0: a positive `low` or a negative `high` counts as 0, as does NaN, so an
    entry of x that lies outside by a rounding may stay. A half-space says nothing, and is left out,
    if ``||w_i||_2`` is not finite or at or below the smallest normal number (in float32 for
    float32), or c_i is not finite. Where no r fulfils all, r is that of the box for which the
    squares of what is missed add up to the least, ``sum_i max(0, c_i - w_i . r)^2 / ||w_i||^2``
    (for p = inf among those up to the length at which the combinations have used up the box; for
    p = 1 the one of p = 2).

    Sums are in float64. No result depends on the other samples, or on the number of threads.

    Args:
        low, high: [N, D], the box of r; infinite where there is no bound. float32 or float64.
        w: [N, M, D] with 1 <= M <= 8, dtype and device of `low`.
        c: [N, M] float64.
        p: 1, 2 or ``inf``.

    Returns:
        r [N, D] in the dtype of w, inside the box; and [N] float64 by how much it misses the
        half-space that is farthest, in units of length, 0 where it misses none. Both are constants
        to autograd.

    Raises:
        TypeError: a dtype is not as above. ValueError: a shape, device or value is not.

    Source: the projection onto box and one half-space: Croce & Hein 2020 (arXiv 1907.02044);
    Newton's method on the dual of several: this library. Linear programs as limits of quadratic
    ones: Mangasarian & Meyer 1979, Nonlinear perturbation of linear programs.
    """
    _check(low, high, w, c, p)
    four = low.detach(), high.detach(), w.detach(), c.detach()
    if lives.native(low) and lives.has("halfspace_projection"):
        return lives.call("halfspace_projection", *four, float(p))
    return halfspaces.reference(*four, p)


def _check(low: Tensor, high: Tensor, w: Tensor, c: Tensor, p: float) -> None:
    for name, tensor in (("low", low), ("high", high), ("w", w)):
        checks.floating(name, tensor)
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64; got {tensor.dtype}")
    checks.shape("low", low, "[N, D]", (None, None))
    checks.shape("high", high, "[N, D]", tuple(low.shape))
    checks.shape("w", w, "[N, M, D]", (low.shape[0], None, low.shape[1]))
    checks.same("high", high, "low", low)
    checks.same("w", w, "low", low)
    if not 1 <= w.shape[1] <= MOST:
        raise ValueError(f"w must have 1 to {MOST} half-spaces of each sample; got {w.shape[1]}")
    checks.floating("c", c)
    if c.dtype != torch.float64:
        raise TypeError(f"c must be float64; got {c.dtype}")
    checks.shape("c", c, "[N, M]", tuple(w.shape[:2]))
    checks.same_device("c", c, "low", low)
    one_of("p", p, NORMS)


if lives.has("halfspace_projection"):

    @torch.library.register_fake("jacfast::halfspace_projection")
    def _(low: Tensor, high: Tensor, w: Tensor, c: Tensor, p: float) -> tuple[Tensor, Tensor]:
        return low.new_empty(low.shape), c.new_empty(low.shape[0])
