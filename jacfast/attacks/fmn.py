"""Fast minimum-norm attack: gradient steps, projected onto a radius that follows the boundary."""

import math
from typing import Unpack

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.annealed import Samples, cosine, finite_box, scaled
from jacfast.attacks.attack import attack
from jacfast.attacks.box import Clip
from jacfast.attacks.gradient import counting, look, wanted_in
from jacfast.attacks.norms import lengths
from jacfast.calling import AnyModel, Further, quiet, takes_model
from jacfast.cotangents import unit
from jacfast.lean import lean


@attack(2)
@takes_model
def fmn(
    model: AnyModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    target: Tensor | None = None,
    p: float = 2.0,
    steps: int = 100,
    alpha_init: float = 1.0,
    alpha_final: float | None = None,
    gamma_init: float = 0.05,
    gamma_final: float = 0.001,
    clip: Clip = (0.0, 1.0),
    **further: Unpack[Further],
) -> Tensor:
    """Find for each sample a misclassified input near it, by steps within a radius that adapts.

    With m the margin ``max_{i != y} z_i - z_y``, g its gradient and u the width of the box:
    ``r <- project(r + alpha u g / ||g||_2, eps)``, then x + r is clipped. The projection scales to
    the length eps (p = 2) or clamps the entries (inf). Until a misclassified point is met, eps is
    ``||r||_p + |m| / ||g||_q``; then it becomes ``min((1 - gamma) eps, the least length found)``
    where the point was misclassified, ``(1 + gamma) eps`` where it was not. alpha and gamma fall
    along a cosine. Of all points the nearest misclassified one is kept.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself; left as it was.
        x: [N, ...], floating point.
        y: [N] int64, the class to leave; default: the predicted one.
        target: [N] int64, the classes to reach. Excludes `y`.
        p: the norm to keep small: 2 or ``inf``.
        steps: points that are looked at, >= 1; the first is x. Each costs one vector-Jacobian
            product.
        alpha_init: the first step size, > 0, in widths of the box.
        alpha_final: the last one, > 0; default: a hundredth of the first.
        gamma_init: by how much the radius changes at first, in (0, 1).
        gamma_final: and at last, in (0, 1).
        clip: (low, high), the box of valid inputs, in which x must lie but for roundings; finite.
            Numbers, or tensors that broadcast to a sample: [C, 1, 1] holds a bound for each
            channel, and u is the largest width.

    Returns:
        The perturbed batch, without a graph. Samples never misclassified are returned unchanged,
        and so are those that were from the start. A sample does not move while its gradient is zero
        or not finite.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or value is wrong.

    Source: Pintor et al. 2021 (arXiv 2102.12827), algorithm 1; as in adv-lib, which scales to eps
    where the paper shortens to it.
    """
    checks.one_of("p", p, (2, math.inf))
    checks.count("steps", steps)
    checks.above_zero("alpha_init", alpha_init)
    alpha_final = alpha_init / 100 if alpha_final is None else alpha_final
    checks.above_zero("alpha_final", alpha_final)
    for name, size in (("gamma_init", gamma_init), ("gamma_final", gamma_final)):
        checks.above_zero(name, size)
        if size >= 1:
            raise ValueError(f"{name} must be < 1; got {size}")
    box = finite_box(clip, x)
    with quiet(model), lean(model), counting(x) as lost:
        wanted = wanted_in(look(model, x), x, y, target)
        samples = Samples(model, x, wanted, p, box, lost)
        eps = torch.full_like(samples.most, math.inf)
        found = torch.zeros_like(eps, dtype=torch.bool)
        for number in range(steps):
            seen = samples.look("margin")
            alpha = box.width * cosine(alpha_init, alpha_final, number, steps)
            gamma = cosine(gamma_init, gamma_final, number, steps)
            found |= seen.wanted
            dual = lengths(seen.g, 1 if p == math.inf else 2).double()
            away = (seen.value.abs() / torch.where(dual > 0, dual, math.inf)).nan_to_num(nan=0)
            wider = torch.where(found, eps * (1 + gamma), seen.size + away)
            tighter = torch.minimum(eps * (1 - gamma), samples.nearest.size)
            eps = torch.minimum(torch.where(seen.wanted, tighter, wider), samples.most)
            r = samples.r + alpha * unit(seen.g, torch.zeros_like(seen.g))
            samples.move(scaled(r, eps) if p == 2 else _clamped(r, eps), seen)
        return samples.nearest.point


def _clamped(r: Tensor, eps: Tensor) -> Tensor:
    most = eps[:, None].to(r.dtype)
    return r.clamp(-most, most)
