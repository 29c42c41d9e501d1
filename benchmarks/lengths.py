"""The attacks whose lengths are compared by `benchmarks.minimal_norm`."""

import contextlib
import sys
import types
from collections.abc import Callable

from torch import Tensor, nn

import jacfast

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def attacks(p: int) -> dict[str, Attack]:
    """Return all in the p-norm, by name: images, labels -> images that are classified otherwise."""
    return {**ours(p), **advlib(p), **foolbox(p)}


def ours(p: int) -> dict[str, Attack]:
    every = {"candidates": None, "clip": (0.0, 1.0)}
    found: dict[str, Attack] = {}
    if p == 2:
        found["DeepFool"] = lambda m, x, y: jacfast.deepfool(m, x, y, **every).adversarial
        found["SuperDeepFool"] = lambda m, x, y: (
            jacfast.deepfool(m, x, y, variant="super", **every).adversarial
        )
    for budget in (25, 50, 100, 200):
        found[f"minimal_norm, {budget}"] = lambda m, x, y, budget=budget: jacfast.minimal_norm(
            m, x, y, p=p, budget=budget
        )
    return found


def advlib(p: int) -> dict[str, Attack]:
    """Return adv-lib's, with an empty module for the plots and networks that it imports."""
    for name in ("torchvision", "visdom"):
        with contextlib.suppress(ImportError):
            __import__(name)
        sys.modules.setdefault(name, types.ModuleType(name))
    if not hasattr(sys.modules["torchvision"], "models"):
        sys.modules["torchvision"].models = types.ModuleType("models")  # type: ignore[attr-defined]
    import setuptools  # noqa: F401  # distutils, which newer Pythons lack
    from adv_lib import attacks as a

    if p == 1:
        return {
            "FMN of adv-lib, 100 steps": lambda m, x, y: a.fmn(m, x, y, norm=1, steps=100),
            "FMN of adv-lib, 1000 steps": lambda m, x, y: a.fmn(m, x, y, norm=1, steps=1000),
            "PDPGD of adv-lib, 100 steps": lambda m, x, y: a.pdpgd(m, x, y, norm=1, num_steps=100),
            "PDPGD of adv-lib, 1000 steps": lambda m, x, y: a.pdpgd(
                m, x, y, norm=1, num_steps=1000
            ),
            "FAB of adv-lib, 100 steps": lambda m, x, y: a.fab(
                m, x, y, norm=1, n_iter=100, restarts=1
            ).clamp(0, 1),  # it may leave the box by a rounding
        }
    return {
        "DDN of adv-lib, 100 steps": lambda m, x, y: a.ddn(m, x, y, steps=100, levels=None),
        "DDN of adv-lib, 1000 steps": lambda m, x, y: a.ddn(m, x, y, steps=1000, levels=None),
        "FMN of adv-lib, 1000 steps": lambda m, x, y: a.fmn(m, x, y, norm=2, steps=1000),
        "PDGD of adv-lib, 1000 steps": lambda m, x, y: a.pdgd(m, x, y, num_steps=1000),
        "PDPGD of adv-lib, 1000 steps": lambda m, x, y: a.pdpgd(m, x, y, norm=2, num_steps=1000),
    }


def foolbox(p: int) -> dict[str, Attack]:
    import foolbox as fb

    if p == 1:
        name, attack = (
            "EAD of foolbox, 9 times 200 steps",
            fb.attacks.EADAttack(steps=200, decision_rule="L1"),
        )
    else:
        name, attack = "DDN of foolbox, 1000 steps", fb.attacks.DDNAttack(steps=1000)
    return {name: lambda m, x, y: attack(fb.PyTorchModel(m, bounds=(0, 1)), x, y, epsilons=None)[1]}
