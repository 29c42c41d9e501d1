"""The attack of Carlini and Wagner in the 2-norm."""

from typing import Unpack

from torch import Tensor

from jacfast import checks
from jacfast.attacks.annealed import finite_box
from jacfast.attacks.attack import attack
from jacfast.attacks.box import Clip
from jacfast.attacks.descent import Descent, Nearest, search
from jacfast.attacks.gradient import counting, look, wanted_in
from jacfast.calling import AnyModel, Further, quiet, takes_model
from jacfast.lean import lean


@attack(2)
@takes_model
def carlini_wagner(
    model: AnyModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    target: Tensor | None = None,
    confidence: float = 0.0,
    steps: int = 1000,
    binary_steps: int = 9,
    initial_const: float = 1e-3,
    lr: float = 1e-2,
    abort_early: bool = True,
    clip: Clip = (0.0, 1.0),
    **further: Unpack[Further],
) -> Tensor:
    """Find for each sample a misclassified input near it, by gradient descent on both aims.

    ``||x' - x||_2^2 / u^2 + c max(z_y(x') - max_{i != y} z_i(x') + confidence, 0)`` is minimised by
    Adam over w, with ``x' = low + (high - low) (tanh w + 1) / 2`` and u the width of the box, once
    for each of `binary_steps` constants c, searched per sample: ten times the last until one
    succeeds, then bisection. Of all points met, the nearest misclassified one is kept. Targeted,
    the second term is ``c max(max_{i != t} z_i(x') - z_t(x') + confidence, 0)``, t the target, and
    the nearest point of class t is kept.

    The authors' box is one wide. Lengths are measured in u here, so that images in 0 .. 255 are
    attacked as the same images in 0 .. 1 are, with the same constants.

    No sample depends on the others: each leaves a descent by itself when that stops falling, and
    those misclassified as they are leave before the first. The model is evaluated in eval mode and
    left as it was.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself.
        x: [N, ...], floating point.
        y: [N] int64, the class to leave; default: the predicted one.
        target: [N] int64, the classes to reach. Excludes `y`.
        confidence: by how much another logit must exceed that of y, or that of the target all
            others; >= 0.
        steps: points at most, for each constant; >= 1. The first is x itself, Adam finds each from
            the one before it, and each costs one vector-Jacobian product.
        binary_steps: how many constants, >= 1.
        initial_const: the first of them, > 0.
        lr: Adam's step size, in w; > 0.
        abort_early: look every tenth of the steps whether the sum above fell by 1e-4 of itself.
            Entries on a face of the box hardly move at first, since tanh is flat there: where all
            are, a tenth of the steps times `lr` must be some units, or this be False.
        clip: (low, high), the box of valid inputs, in which x must lie but for roundings. It is
            part of the method, and finite. Numbers, or tensors that broadcast to a sample:
            [C, 1, 1] holds a bound for each channel, and u is the largest width.

    Returns:
        The perturbed batch, without a graph. Samples never misclassified are returned unchanged,
        and so are those that were from the start.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or value is wrong.

    Source: Carlini & Wagner 2017 (arXiv 1608.04644), sections V and VI; the constants are those of
    the authors' code.
    """
    box = finite_box(clip, x, "the tangent maps onto that box")
    for name, number in (("steps", steps), ("binary_steps", binary_steps)):
        checks.count(name, number)
    for name, size in (("initial_const", initial_const), ("lr", lr)):
        checks.above_zero(name, size)
    checks.at_least("confidence", confidence, 0)
    abort_early = checks.flag("abort_early", abort_early)
    with quiet(model), lean(model), counting(x) as lost:
        clean = look(model, x)
        wanted = wanted_in(clean, x, y, target)
        left = (~wanted.met(clean, confidence)).nonzero()[:, 0]
        found = x.clone()
        if len(left):
            here = model.rows(left)
            descent = Descent(here, confidence, steps, lr, abort_early, box)
            nearest = Nearest(found[left], wanted[left])
            search(descent, nearest, initial_const, binary_steps)
            found[left], lost[left] = nearest.point, nearest.lost
    return found
