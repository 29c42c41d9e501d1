"""Accuracy, of images as they are and under an attack of growing size."""

from collections.abc import Iterable
from typing import Protocol, Unpack

import torch
from torch import Tensor

from jacfast.attacks.checks import above_zero, at_least
from jacfast.attacks.fgsm import fgsm
from jacfast.calling import AnyModel, Call, Further, Model, check_labels, takes_model
from jacfast.evaluation.predict import BATCH, batches, predict


class Attack(Protocol):
    """Called as ``attack(model, x, y, eps=eps)``, returns perturbed inputs, like `fgsm`."""

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, eps: float) -> Tensor: ...


@takes_model
def accuracy(
    model: AnyModel, x: Tensor, y: Tensor, *, batch_size: int = BATCH, **further: Unpack[Further]
) -> float:
    """Return the share of samples that the model, in eval mode, classifies as `y`.

    A sample with a logit that is NaN counts as misclassified.

    Args:
        model: maps [N, ...] to logits [N, K]; left as it was.
        x: [N, ...], floating point.
        y: [N] int64.
        batch_size: samples at a time.

    Raises:
        TypeError: x is not floating point, or y not int64. ValueError: a shape, a label or
            batch_size is wrong.
    """
    return _mean(_right(model, x, y, batch_size))


@takes_model
def accuracy_curve(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    epsilons: Iterable[float],
    *,
    batch_size: int = BATCH,
    **further: Unpack[Further],
) -> list[float]:
    """Return the accuracy under ``attack(model, x, y, eps=eps)`` for each eps.

    Over all samples: one that is misclassified without an attack is attacked as well. At eps = 0
    the images are taken as they are, and the attack is not called.

    Args:
        model, x, y, batch_size: as for `accuracy`.
        attack: any function of the form of `jacfast.fgsm`.
        epsilons: sizes, one at least, each finite and >= 0, in the units of the attack.

    Returns:
        Shares in [0, 1], in the order of `epsilons`.

    Raises:
        TypeError, ValueError: as `accuracy` and the attack; or an eps is wrong, or none is given.

    Source: Jakubovitz & Giryes 2018, figures 1, 2, 4; Deng, Zhang & Zhao, figure 3.5.
    """
    sizes = [eps.item() if isinstance(eps, Tensor) else eps for eps in epsilons]
    if not sizes:
        raise ValueError("epsilons must hold one size at least; got none")
    for eps in sizes:
        at_least("epsilons", eps, 0)
    check_labels(y, len(x))
    parts = list(zip(batches(model, x, batch_size), y.split(batch_size), strict=True))
    shares = []
    for eps in sizes:
        right = [
            _right(
                call, attack(call.plain, part, labels, eps=eps) if eps else part, labels, batch_size
            )
            for (call, part), labels in parts
        ]
        shares.append(_mean(torch.cat(right)))
    return shares


@takes_model
def reference_epsilon(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    attack: Attack = fgsm,  # type: ignore[has-type]
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
    for name, value in (("share", share), ("high", high), ("tolerance", tolerance)):
        above_zero(name, value)
    if share > 1:
        raise ValueError(f"share must be in (0, 1]; got {share}")

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


def _right(model: Call, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Say per sample whether it is classified as `y`."""
    check_labels(y, len(x))
    logits = predict(model, x, batch_size)
    check_labels(y, *logits.shape)
    return (logits.argmax(dim=1) == y) & ~logits.isnan().any(dim=1)


def _mean(right: Tensor) -> float:
    return float(right.double().mean())
