"""Accuracy, of images as they are and under an attack of growing size."""

import functools
from collections.abc import Iterable
from typing import Protocol, Unpack

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.attack_result import AttackResult
from jacfast.attacks.given import perturb
from jacfast.attacks.gradient import told_once
from jacfast.calling import AnyModel, Further, Model, check_labels, takes_model, warn
from jacfast.evaluation.distances import distances, share_beyond
from jacfast.evaluation.predict import BATCH, batches, classified
from jacfast.evaluation.rho import check_attacked


class Attack(Protocol):
    """Called as ``attack(model, x, y, eps=eps)``, returns perturbed inputs, like `fgsm`.

    Or an `AttackResult` of them, like ``fgsm.result``.
    """

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, *, eps: float
    ) -> Tensor | AttackResult: ...


@takes_model
def accuracy(
    model: AnyModel, x: Tensor, y: Tensor, *, batch_size: int = BATCH, **further: Unpack[Further]
) -> float:
    """Return the share of samples that the model, in eval mode, classifies as `y`.

    A sample with a logit that is NaN or +inf counts as misclassified.

    Args:
        model: maps [N, ...] to logits [N, K]; left as it was.
        x: [N, ...], floating point.
        y: [N] int64.
        batch_size: samples at a time.

    Raises:
        TypeError: x is not floating point, or y not int64. ValueError: a shape, a label or
            batch_size is wrong.
    """
    return float(classified(model, x, y, batch_size).double().mean())


@takes_model
def accuracy_curve(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    attack: Attack | AttackResult,
    epsilons: Iterable[float],
    *,
    batch_size: int = BATCH,
    **further: Unpack[Further],
) -> list[float]:
    """Return the accuracy under ``attack(model, x, y, eps=eps)`` for each eps.

    Over all samples: one that is misclassified without an attack is attacked as well. At eps = 0
    the images are taken as they are, and the attack is not called.

    Of what an attack has found at x, `jacfast.minimal_norm.result` or `jacfast.deepfool` say, it is
    the robust accuracy at every eps from that one run: the share of samples that are classified as
    `y` at x and whose ``||r||_p``, in the attack's own norm, is beyond eps. What an attack found in
    a ball (PGD's, or below `max_norm`) is not beyond its radius, though x + r may round past it. A
    sample that was not fooled has an unknown distance and counts as robust at every eps; a warning
    says how many these are.

    Args:
        model, x, y, batch_size: as for `accuracy`.
        attack: any function of the form of `jacfast.fgsm`, which returns images or an
            `AttackResult` of them; or the result of an attack on x that left `y`, or the predicted
            classes.
        epsilons: sizes, one at least, each finite and >= 0, in the units of the attack.

    Returns:
        Shares in [0, 1], in the order of `epsilons`.

    Raises:
        TypeError, ValueError: as `accuracy` and the attack; or an eps is wrong, or none is given,
            or x is not what was attacked.

    Source: Jakubovitz & Giryes 2018, figures 1, 2, 4; Deng, Zhang & Zhao, figure 3.5.
    """
    sizes = checked_sizes("epsilons", epsilons)
    check_labels(y, len(x))
    if isinstance(attack, AttackResult):
        check_attacked(attack, x)
        right, far = classified(model, x, y, batch_size), distances(attack, y)
        unknown = int((right & far.isinf()).sum())
        if unknown:
            warn(
                f"accuracy_curve: {unknown} of {len(x)} samples are classified as y and were not "
                "fooled; they count as robust at every eps"
            )
        return [share_beyond(eps, right, far) for eps in sizes]
    if not callable(attack):
        raise TypeError(
            "attack must be a function of (model, x, y, eps=eps), or a result; got "
            f"{type(attack).__name__}"
        )
    parts = list(zip(batches(model, x, batch_size), y.split(int(batch_size)), strict=True))
    shares = []
    with told_once():
        for eps in sizes:
            fine = []
            for (call, part), labels in parts:
                at = functools.partial(attack, eps=eps)
                moved = perturb(at, call.plain, part, labels) if eps else part
                fine.append(classified(call, moved, labels, batch_size))
            shares.append(float(torch.cat(fine).double().mean()))
    return shares


def checked_sizes(name: str, given: Iterable[float]) -> list[float]:
    """Return sizes of an attack as numbers: one at least, each finite and >= 0."""
    sizes = checks.several(name, given)
    if not sizes:
        raise ValueError(f"{name} must hold one size at least; got none")
    for eps in sizes:
        checks.at_least(name, eps, 0)
    return sizes
