"""The fast gradient sign method."""

import math
from typing import Unpack

from torch import Tensor

from jacfast.attacks.attack import attack
from jacfast.attacks.box import Clip, Size, box_of, length_of
from jacfast.attacks.gradient import counting, finite_rows, forward, wanted_in
from jacfast.calling import AnyModel, Further, quiet, takes_model
from jacfast.lean import lean


@attack(math.inf, ball=True)
@takes_model
def fgsm(
    model: AnyModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    target: Tensor | None = None,
    eps: Size,
    clip: Clip = (0.0, 1.0),
    **further: Unpack[Further],
) -> Tensor:
    """Return ``x + eps * sign(d CE(model(x), y)/dx)``, clipped.

    Targeted, it is ``x - eps * sign(d CE(model(x), target)/dx)``. The sign is that of exact
    arithmetic, also where the probability of y rounds to 1 and the gradient that automatic
    differentiation gives loses a part, or vanishes. The model is evaluated in eval mode and left as
    it was.

    Args:
        model: maps [N, ...] to logits [N, K].
        x: [N, ...], floating point.
        y: [N] int64, true labels; default: the predicted ones.
        target: [N] int64, the classes to reach. Excludes `y`.
        eps: size of the change of each entry (infinity norm), in the units of x; >= 0. A number, or
            a tensor that broadcasts to x: [C, 1, 1] holds one for each channel, [N, 1, 1, 1] one
            for each sample.
        clip: (low, high), the box of valid inputs, in which x must lie but for roundings, or None.
            Numbers, or tensors that broadcast to a sample.

    Returns:
        The perturbed batch, without a graph. A sample whose gradient is not finite is unchanged.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape, label, eps or clip is wrong.

    Source: Goodfellow, Shlens & Szegedy 2015; Jakubovitz & Giryes eq. 16; targeted: Kurakin,
    Goodfellow & Bengio 2017 (arXiv 1611.01236), section 2.
    """
    eps = length_of("eps", eps, x)
    box = box_of(clip, x)
    box.check(x)
    with quiet(model), lean(model), counting(x) as lost:
        leaf, logits = forward(model, x)
        wanted = wanted_in(logits, x, y, target)
        v = wanted.cotangent("cross-entropy", logits)
        g = finite_rows(logits, leaf, v[None], lost)[0].view_as(x)
    return box.clamp(x + eps * g.sign())
