"""Penalties, attacks and losses by the names they have in a table's file."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from jacfast import attacks, penalties
from jacfast.attacks.result import DeepFoolResult
from jacfast.evaluation.predict import BATCH
from jacfast.penalties.base import Penalty
from jacfast.reproduce.config import Training
from jacfast.training.deep_defense import deep_defense_penalty
from jacfast.training.defence import Attack, Defence
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


def loss(training: Training) -> Loss:
    """Return the loss of a phase, a function of (model, x, y)."""
    if training.penalty.get("name") == "DeepDefense":
        return functools.partial(_deep_defense, training)
    return Defence(
        penalty=penalty(training.penalty),
        lam=training.lam,
        attack=None if training.once else attack(training.attack),
        share=training.share,
        twins=training.twins,
        penalise=training.penalise,
        smoothing=training.smoothing,
        layer=training.layer,
    )


def _deep_defense(training: Training, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    options = {name: value for name, value in training.penalty.items() if name != "name"}
    penalty = deep_defense_penalty(model, x, y, **options)
    return F.cross_entropy(model(x), y) + training.lam * penalty


def attacked(training: Training, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the images of a phase, the first `share` of them attacked on `model`."""
    move = attack(training.attack)
    if move is None:
        raise ValueError("attack must be named where it is made once")
    count = round(training.share * len(x))
    batches = list(zip(x[:count].split(BATCH), y[:count].split(BATCH), strict=True))
    moved = [move(model, *batch) for batch in tqdm(batches, desc="attack")]
    return torch.cat([*moved, x[count:]])


def penalty(spec: dict[str, Any]) -> Penalty | None:
    """Return the penalty of ``{name = "Frobenius", n = 1}``; None of an empty one."""
    kind, options = _named("penalty", PENALTIES, spec)
    return None if kind is None else kind(**options)


def attack(spec: dict[str, Any]) -> Attack | None:
    """Return the attack of ``{name = "fgsm", eps = 0.1}``; None of an empty one."""
    function, options = _named("attack", ATTACKS, spec)
    if function is None:
        return None
    if function is not attacks.deepfool:
        return functools.partial(function, **options)

    def moved(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: DeepFoolResult = attacks.deepfool(model, x, **options)
        return found.adversarial

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
