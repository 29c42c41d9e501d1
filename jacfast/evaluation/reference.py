"""The size of an attack by which a share of the images is lost."""

from typing import Unpack

from torch import Tensor

from jacfast import checks
from jacfast.attacks.attack_result import AttackResult
from jacfast.attacks.fgsm import fgsm
from jacfast.calling import AnyModel, Further, takes_model
from jacfast.evaluation.accuracies import Attack, accuracy_curve
from jacfast.evaluation.predict import BATCH


@takes_model
def reference_epsilon(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    attack: Attack | AttackResult = fgsm,  # type: ignore[has-type]
    *,
    share: float = 0.5,
    high: float = 1.0,
    tolerance: float = 1e-3,
    batch_size: int = BATCH,
    **further: Unpack[Further],
) -> float:
    """Return the smallest eps at which a share of the attacked images is misclassified.

    By bisection of [0, high]: the lower end always has fewer than `share` of all images
    misclassified, the upper end at least that many; it stops once they are at most `tolerance`
    apart, and the upper end is returned. So the share is reached at the value returned, and is not
    yet reached somewhere within `tolerance` below it. Where the share of misclassified images is
    not monotone in eps (an attack of fixed steps can overshoot a class), that is one crossing, not
    always the first. A model that misclassifies the share without an attack has no such size: eps 0
    would be no attack, and "accuracy at eps_ref" the accuracy.

    Args:
        model, x, y, attack, batch_size: as for `accuracy_curve`.
        share: in (0, 1], of all images.
        high: the largest eps to consider, > 0.
        tolerance: > 0, in the units of eps.

    Returns:
        eps, in (0, high], in the units of the attack.

    Raises:
        TypeError: as `accuracy` and the attack; or an argument is no number. ValueError: `share` or
            more are misclassified without an attack, or fewer at `high`; or an argument is wrong.

    Source: eps_ref of Deng, Zhang & Zhao, section 2.3.
    """
    share = checks.share("share", share)
    high, tolerance = checks.above_zero("high", high), checks.above_zero("tolerance", tolerance)

    def wrong(eps: float) -> float:
        (right,) = accuracy_curve(model, x, y, attack, [eps], batch_size=batch_size)
        return round((1 - right) * len(x)) / len(x)  # 1 - 0.9 < 0.1 in floating point

    clean = wrong(0.0)
    if clean >= share:
        raise ValueError(
            f"model must misclassify less than {share:g} of the images without an attack; "
            f"it misclassifies {clean:.3g}"
        )
    reached = wrong(high)
    if reached < share:
        raise ValueError(
            f"high must be an eps at which {share:g} of the images are misclassified; "
            f"at {high:g} only {reached:.3g} are"
        )
    low = 0.0
    while high - low > tolerance:
        middle = (low + high) / 2
        if not low < middle < high:  # no number in between
            break
        if wrong(middle) >= share:
            high = middle
        else:
            low = middle
    return high
