"""The fast gradient sign method."""

from torch import Tensor

from jacfast.attacks.checks import at_least, check_box, check_classes
from jacfast.attacks.gradient import finite_rows, forward
from jacfast.attacks.losses import cotangent
from jacfast.calling import Call, check_input, quiet, takes_model
from jacfast.lean import lean


@takes_model
def fgsm(
    model: Call,
    x: Tensor,
    y: Tensor | None = None,
    *,
    eps: float,
    clip: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """Return ``x + eps * sign(d CE(model(x), y)/dx)``, clipped.

    The sign is that of exact arithmetic, also where the probability of y rounds to 1 and the
    gradient that automatic differentiation gives loses a part, or vanishes. The model is evaluated
    in eval mode and left as it was.

    Args:
        model: maps [N, ...] to logits [N, K].
        x: [N, ...], floating point.
        y: [N] int64, true labels; default: the predicted ones.
        eps: size of the change of each entry (infinity norm), in the units of x; >= 0.
        clip: the box of valid inputs, in which x must lie but for roundings, or None.

    Returns:
        The perturbed batch, without a graph. A sample whose gradient is not finite is unchanged.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape, label, eps or clip is wrong.

    Source: Goodfellow, Shlens & Szegedy 2015; Jakubovitz & Giryes eq. 16.
    """
    check_input(x)
    at_least("eps", eps, 0)
    check_box(clip, x)
    with quiet(model), lean(model):
        leaf, logits = forward(model, x)
        if y is None:
            y = logits.argmax(dim=1)
        check_classes(logits, y)
        v = cotangent("cross-entropy", logits, y)
        g = finite_rows(logits, leaf, v[None])[0].view_as(x)
    moved = x.detach() + eps * g.sign()
    return moved if clip is None else moved.clamp(*clip)
