"""Projected gradient descent, and the basic iterative method: PGD without a random start."""

import math
from typing import Unpack

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.ascent import ascent_of
from jacfast.attacks.attack import attack
from jacfast.attacks.box import Clip, Size
from jacfast.attacks.losses import Loss
from jacfast.calling import AnyModel, Further, takes_model
from jacfast.ops.checks import source


@attack(math.inf, ball=True)
@takes_model
def pgd(
    model: AnyModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    target: Tensor | None = None,
    eps: Size,
    steps: int = 10,
    step_size: Size | None = None,
    p: float = math.inf,
    loss: Loss = "cross-entropy",
    random_start: bool = True,
    restarts: int = 1,
    clip: Clip = (0.0, 1.0),
    generator: torch.Generator | None = None,
    **further: Unpack[Further],
) -> Tensor:
    """Raise the loss step by step, inside the ball of radius eps around x and inside the box.

    With g the gradient of the loss at the point: ``point <- project(point + step_size * d)``, d =
    ``sign(g)`` for p = inf and ``g / ||g||_2`` for p = 2. Targeted, the loss is that of the label
    `target`, and is lowered: d is turned round. The model is evaluated in eval mode and left as it
    was, as is the global random state.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself.
        x: [N, ...], floating point.
        y: [N] int64, true labels; default: the predicted ones.
        target: [N] int64, the classes to reach. Excludes `y`.
        eps: the radius, in the p-norm and the units of x; >= 0. It may be a tensor that broadcasts
            to x: [N, 1, 1, 1] holds a radius for each sample, and for p = inf [C, 1, 1] one for
            each channel.
        steps: how many, >= 1; each costs one vector-Jacobian product.
        step_size: in the p-norm, > 0; a number, or a tensor as for `eps`. Default
            ``2.5 eps / steps``, which Madry et al. used. The edge can be reached from any start,
            and there is way left to move along it.
        p: 2 or ``inf``.
        loss: ``cross-entropy``, or ``margin``: ``max_{i != y} z_i - z_y``, of Carlini & Wagner.
            "C&W at eps" of Yu et al. is ``bim`` with that loss, 10 steps, step_size 0.1.
        random_start: begin at a point drawn uniformly from the ball, then clipped; else at x.
        restarts: runs at most, each from a start of its own. A sample keeps its first misclassified
            result (targeted: that is classified as the target), and leaves; if there is none, that
            of the largest loss (targeted: the smallest).
        clip: (low, high), the box of valid inputs, in which x must lie but for roundings, or None.
            Numbers, or tensors that broadcast to a sample.
        generator: of the random starts, on the device of x; from the same state the same result
            (``torch.default_generator`` is the global one). Default: a new one, seeded by the
            system.

    Returns:
        The perturbed batch, without a graph. A sample does not move while its gradient is zero or
        not finite. The result is not always misclassified.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or value is wrong.

    Source: Madry et al. 2018 (arXiv 1706.06083); the margin: Carlini & Wagner 2017, f_6.
    """
    source("generator", generator)
    checks.count("restarts", restarts)
    random_start = checks.flag("random_start", random_start)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts must be 1 without random_start: all are equal; got {restarts}")
    ascent = ascent_of(model, x, eps, steps, step_size, 2.5, p, loss, clip)
    if random_start and generator is None:
        generator = torch.Generator(x.device)
        generator.seed()
    return ascent.run(x, y, target, generator if random_start else None, restarts)


@attack(math.inf, ball=True)
@takes_model
def bim(
    model: AnyModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    target: Tensor | None = None,
    eps: Size,
    steps: int = 10,
    step_size: Size | None = None,
    p: float = math.inf,
    loss: Loss = "cross-entropy",
    clip: Clip = (0.0, 1.0),
    **further: Unpack[Further],
) -> Tensor:
    """Raise the loss step by step from x itself, inside the ball and the box: `pgd` from x.

    Arguments, result and errors are those of `pgd`, but for the default step size.

    Args:
        step_size: in the p-norm, > 0; a number, or a tensor as for `eps`. Default
            ``1.25 eps / steps``. Kurakin et al. fix the step at one grey value and take 1.25 eps of
            them (for eps up to 16 of 255, eps + 4 above): the edge is reached though a fifth of the
            steps are lost.

    Source: Kurakin, Goodfellow & Bengio 2017 (arXiv 1607.02533), section 2.2.
    """
    ascent = ascent_of(model, x, eps, steps, step_size, 1.25, p, loss, clip)
    return ascent.run(x, y, target, None, 1)
