"""The attacks whose lengths are compared by `benchmarks.minimal_norm`."""

import contextlib
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

from torch import Tensor, nn

import jacfast

ALPHA = "\N{GREEK SMALL LETTER ALPHA}_init"  # FMN's first step size


class Attack(NamedTuple):
    """An attack, and the constants of it that are chosen for each network, on other images.

    Attributes:
        run: model, images, labels, constants by name -> images that are classified otherwise.
        grid: which constants there are to choose from.
    """

    run: Callable[..., Tensor]
    grid: tuple[dict[str, float], ...] = ({},)


def attacks(p: int) -> dict[str, Attack]:
    """Return all in the p-norm, by name."""
    return {**ours(p), **advlib(p), **foolbox(p), **(torchattacks() if p == 2 else {})}


def ours(p: int) -> dict[str, Attack]:
    every = {"candidates": None, "clip": (0.0, 1.0)}

    def deepfool(model: nn.Module, x: Tensor, y: Tensor, **options: str) -> Tensor:
        return jacfast.deepfool(model, x, y, **every, **options).adversarial

    def minimal(budget: int) -> Attack:
        return Attack(lambda m, x, y: jacfast.minimal_norm(m, x, y, p=p, budget=budget))

    found: dict[str, Attack] = {}
    if p == 2:
        found["DeepFool"] = Attack(deepfool)
        found["SuperDeepFool"] = Attack(lambda m, x, y: deepfool(m, x, y, variant="super"))
    return found | {f"minimal_norm, {budget}": minimal(budget) for budget in (25, 50, 100, 200)}


def advlib(p: int) -> dict[str, Attack]:
    """Return adv-lib's, with an empty module for the plots and networks that it imports.

    Chosen are constants that made a difference on the networks and images that ours were chosen on;
    those of DDN (levels of the norm, first norm) made none beyond a thousandth.
    """
    for name in ("torchvision", "visdom"):
        with contextlib.suppress(ImportError):
            __import__(name)
        sys.modules.setdefault(name, types.ModuleType(name))
    if not hasattr(sys.modules["torchvision"], "models"):
        sys.modules["torchvision"].models = types.ModuleType("models")  # type: ignore[attr-defined]
    import setuptools  # noqa: F401  # distutils, which newer Pythons lack
    from adv_lib import attacks as a

    def fmn(steps: int) -> Attack:
        grid = ({ALPHA: 0.1}, {ALPHA: 1.0}) if p == 2 else ({},)
        return Attack(lambda m, x, y, **k: a.fmn(m, x, y, norm=p, steps=steps, **k), grid)

    def pdpgd(steps: int) -> Attack:
        grid = ({"primal_lr": 0.1}, {"primal_lr": 1.0}) if p == 2 else ({},)
        return Attack(lambda m, x, y, **k: a.pdpgd(m, x, y, norm=p, num_steps=steps, **k), grid)

    if p == 1:
        fab = Attack(
            lambda m, x, y: a.fab(m, x, y, norm=1, n_iter=100, restarts=1).clamp(0, 1)
        )  # it may leave the box by a rounding
        return {
            "FMN of adv-lib, 100 steps": fmn(100),
            "FMN of adv-lib, 1000 steps": fmn(1000),
            "PDPGD of adv-lib, 100 steps": pdpgd(100),
            "PDPGD of adv-lib, 1000 steps": pdpgd(1000),
            "FAB of adv-lib, 100 steps": fab,
        }

    def ddn(steps: int) -> Attack:
        return Attack(lambda m, x, y: a.ddn(m, x, y, steps=steps, levels=None))

    rates = ({"primal_lr": 0.1}, {"primal_lr": 1.0})
    return {
        "DDN of adv-lib, 100 steps": ddn(100),
        "DDN of adv-lib, 1000 steps": ddn(1000),
        "FMN of adv-lib, 1000 steps": fmn(1000),
        "PDGD of adv-lib, 1000 steps": Attack(
            lambda m, x, y, **k: a.pdgd(m, x, y, num_steps=1000, **k), rates
        ),
        "PDPGD of adv-lib, 1000 steps": pdpgd(1000),
    }


def foolbox(p: int) -> dict[str, Attack]:
    """Return foolbox's; that of Brendel & Bethge where numba is installed, which it needs."""
    import foolbox as fb

    def by(kind: type, grid: tuple[dict[str, float], ...] = ({},), **options: object) -> Attack:
        def run(m: nn.Module, x: Tensor, y: Tensor, **constants: float) -> Tensor:
            attack = kind(**options, **constants)
            return attack(fb.PyTorchModel(m, bounds=(0, 1)), x, y, epsilons=None)[1]

        return Attack(run, grid)

    if p == 1:
        name = "EAD of foolbox, 9 times 200 steps"
        return {name: by(fb.attacks.EADAttack, steps=200, decision_rule="L1")}
    sizes = ({"stepsize": 0.02}, {"stepsize": 0.05}, {"stepsize": 0.1})
    found = {
        "DDN of foolbox, 1000 steps": by(fb.attacks.DDNAttack, steps=1000),
        "C&W of foolbox, 9 times 200 steps": by(fb.attacks.L2CarliniWagnerAttack, sizes, steps=200),
    }
    if find_spec("numba"):
        rates = ({"lr": 1e-3}, {"lr": 1e-2}, {"lr": 1.0})
        name = "Brendel & Bethge of foolbox, 1000 steps"
        found[name] = by(fb.attacks.L2BrendelBethgeAttack, rates, steps=1000)
    return found


def torchattacks() -> dict[str, Attack]:
    """Return torchattacks': Carlini & Wagner's has one weight of the margin, and no search for it.

    It cannot move a pixel that is 0 or 1, as those of the background of a digit are.
    """
    import torchattacks as ta

    weights = ({"c": 1.0}, {"c": 10.0}, {"c": 100.0})
    return {
        "C&W of torchattacks, 1000 steps": Attack(
            lambda m, x, y, **k: ta.CW(m, steps=1000, **k)(x, y), weights
        ),
        "DeepFool of torchattacks": Attack(lambda m, x, y: ta.DeepFool(m)(x, y)),
    }
