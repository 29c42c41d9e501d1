"""Penalties, attacks and losses by the names they have in a table's file."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import attacks, penalties
from jacfast.attacks.deepfool_result import DeepFoolResult
from jacfast.attacks.given import Attack
from jacfast.checks import above_zero
from jacfast.reproduce.config import Training
from jacfast.training.attacked import attack_once
from jacfast.training.deep_defense import deep_defense_penalty
from jacfast.training.defence import Defence
from jacfast.training.fit import Loss


def _pgd(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Return `pgd` from starts that follow the seed of the run, wherever x is."""
    generator = torch.Generator(x.device).manual_seed(int(torch.randint(2**31, ())))
    return attacks.pgd(model, x, y, generator=generator, **options)


ATTACKS: dict[str, Callable] = {
    "bim": attacks.bim,
    "deepfool": attacks.deepfool,
    "fgsm": attacks.fgsm,
    "jsma": attacks.jsma,
    "pgd": _pgd,
}
PENALTIES = {name: getattr(penalties, name) for name in penalties.__all__ if name[0].isupper()}
del PENALTIES["Penalty"], PENALTIES["JacobianReg"]  # what all are; a module
PENALTIES["DeepDefense"] = deep_defense_penalty
ELSE = ("attack", "share", "twins", "penalise", "smoothing", "layer")  # not of Deep Defense


def loss(training: Training) -> Loss:
    """Return the loss of a phase, a function of (model, x, y)."""
    if training.once:  # by then the attack is over
        training = dataclasses.replace(training, attack={}, share=Training.share)
    penalty, options = _named("penalty", PENALTIES, training.penalty)
    if penalty is deep_defense_penalty:
        return _deep_defense(training, options)
    return Defence(
        penalty=None if penalty is None else penalty(**options),
        lam=training.lam,
        attack=attack(training.attack),
        share=training.share,
        twins=training.twins,
        penalise=training.penalise,
        smoothing=training.smoothing,
        layer=training.layer,
    )


def _deep_defense(training: Training, options: dict[str, Any]) -> Loss:
    above_zero("lam", training.lam)
    for name in ELSE:
        if (value := getattr(training, name)) != getattr(Training(), name):
            raise ValueError(
                f"{name} must be left out beside the penalty DeepDefense (an attack may be made "
                f"once); got {value!r}"
            )

    def step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        penalty = deep_defense_penalty(model, x, y, **options)
        return F.cross_entropy(model(x), y) + training.lam * penalty

    return step


def attacked(training: Training, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the images of a phase whose attack is made once."""
    move = attack(training.attack)
    if move is None:
        raise ValueError("attack must be named where it is made once; got none")
    return attack_once(model, x, y, move, training.share)


def attack(spec: dict[str, Any]) -> Attack | None:
    """Return the attack of ``{name = "fgsm", eps = 0.1}``; None of an empty one."""
    function, options = _named("attack", ATTACKS, spec)
    if function is None:
        return None
    if function is not attacks.deepfool:
        return functools.partial(function, **options)

    def moved(model: nn.Module, x: Tensor, y: Tensor) -> DeepFoolResult:
        return attacks.deepfool(model, x, **options)  # away from the predicted class, whatever y

    return moved


def _named(
    what: str, known: dict[str, Callable], spec: dict[str, Any]
) -> tuple[Callable | None, dict[str, Any]]:
    """Return what a spec names, and the options beside the name."""
    if not spec:
        return None, {}
    options = dict(spec)
    name = options.pop("name", None)
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(sorted(known))}; got {name!r}")
    return known[name], options
