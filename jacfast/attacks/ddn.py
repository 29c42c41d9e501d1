"""Decoupled direction and norm: gradient steps on a sphere that shrinks and grows."""

from typing import Unpack

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.annealed import Samples, cosine, finite_box, scaled
from jacfast.attacks.attack import attack
from jacfast.attacks.box import Clip
from jacfast.attacks.gradient import counting, look, wanted_in
from jacfast.calling import AnyModel, Further, quiet, takes_model
from jacfast.cotangents import unit
from jacfast.lean import lean


@attack(2)
@takes_model
def ddn(
    model: AnyModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    target: Tensor | None = None,
    steps: int = 100,
    gamma: float = 0.05,
    init_norm: float = 1.0,
    levels: int | None = 256,
    clip: Clip = (0.0, 1.0),
    **further: Unpack[Further],
) -> Tensor:
    """Find for each sample a misclassified input near it, by steps on a sphere of changing radius.

    With g the gradient of the cross-entropy and u the width of the box: ``r <- eps s / ||s||_2``,
    ``s = r + alpha u g / ||g||_2``, then x + r is clipped and rounded to `levels`. The radius eps
    begins at ``init_norm u``; it becomes ``(1 - gamma) eps`` where the point was misclassified,
    ``(1 + gamma) eps`` where it was not. alpha falls from 1 to 0.01 along a cosine. Of all points
    the nearest misclassified one is kept. `minimal_norm` needs fewer steps.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself; left as it was.
        x: [N, ...], floating point.
        y: [N] int64, the class to leave; default: the predicted one.
        target: [N] int64, the classes to reach. Excludes `y`.
        steps: points that are looked at, >= 1; the first is x. Each costs one vector-Jacobian
            product.
        gamma: by how much the radius changes, in (0, 1).
        init_norm: the first radius, > 0, in widths of the box.
        levels: how many values an entry may have in the box, >= 2; None: any.
        clip: (low, high), the box of valid inputs, in which x must lie but for roundings; finite.
            Numbers, or tensors that broadcast to a sample: [C, 1, 1] holds a bound for each
            channel, and u is the largest width.

    Returns:
        The perturbed batch, without a graph. Samples never misclassified are returned unchanged,
        and so are those that were from the start. A sample does not move while its gradient is zero
        or not finite (adv-lib takes a random step there).

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or value is wrong.

    Source: Rony et al. 2019 (arXiv 1811.09600), algorithm 1; the constants are those of adv-lib.
    """
    checks.count("steps", steps)
    for name, size in (("gamma", gamma), ("init_norm", init_norm)):
        checks.above_zero(name, size)
    if gamma >= 1:
        raise ValueError(f"gamma must be < 1; got {gamma}")
    if levels is not None:
        checks.count("levels", levels, 2)
    box = finite_box(clip, x)
    with quiet(model), lean(model), counting(x) as lost:
        wanted = wanted_in(look(model, x), x, y, target)
        samples = Samples(model, x, wanted, 2, box, lost)
        eps = torch.full_like(samples.most, init_norm * box.width)
        for number in range(steps):
            seen = samples.look("cross-entropy")
            alpha = box.width * cosine(1, 0.01, number, steps)
            s = samples.r + alpha * unit(seen.g, torch.zeros_like(seen.g))
            eps = torch.where(seen.wanted, eps * (1 - gamma), eps * (1 + gamma))
            eps = torch.minimum(eps, samples.most)
            samples.move(scaled(s, eps), seen, levels)
        return samples.nearest.point
