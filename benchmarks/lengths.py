"""The attacks whose lengths are compared by `benchmarks.minimal_norm`."""

import contextlib
import sys
import types
from collections.abc import Callable

from torch import Tensor, nn

import jacfast

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def attacks() -> dict[str, Attack]:
    """Return all, by name: images, labels -> images that are classified otherwise."""
    return {**ours(), **advlib(), **foolbox()}


def ours() -> dict[str, Attack]:
    every = {"candidates": None, "clip": (0.0, 1.0)}
    found: dict[str, Attack] = {
        "DeepFool": lambda m, x, y: jacfast.deepfool(m, x, y, **every).adversarial,
        "SuperDeepFool": lambda m, x, y: (
            jacfast.deepfool(m, x, y, variant="super", **every).adversarial
        ),
    }
    for budget in (25, 50, 100, 200):
        found[f"minimal_norm, {budget}"] = lambda m, x, y, budget=budget: jacfast.minimal_norm(
            m, x, y, budget=budget
        )
    return found


def advlib() -> dict[str, Attack]:
    """Return adv-lib's, with an empty module for the plots and networks that it imports."""
    for name in ("torchvision", "visdom"):
        with contextlib.suppress(ImportError):
            __import__(name)
        sys.modules.setdefault(name, types.ModuleType(name))
    if not hasattr(sys.modules["torchvision"], "models"):
        sys.modules["torchvision"].models = types.ModuleType("models")  # type: ignore[attr-defined]
    import setuptools  # noqa: F401  # distutils, which newer Pythons lack
    from adv_lib import attacks as a

    return {
        "DDN of adv-lib, 100 steps": lambda m, x, y: a.ddn(m, x, y, steps=100, levels=None),
        "DDN of adv-lib, 1000 steps": lambda m, x, y: a.ddn(m, x, y, steps=1000, levels=None),
        "FMN of adv-lib, 1000 steps": lambda m, x, y: a.fmn(m, x, y, norm=2, steps=1000),
        "PDGD of adv-lib, 1000 steps": lambda m, x, y: a.pdgd(m, x, y, num_steps=1000),
        "PDPGD of adv-lib, 1000 steps": lambda m, x, y: a.pdpgd(m, x, y, norm=2, num_steps=1000),
    }


def foolbox() -> dict[str, Attack]:
    import foolbox as fb

    def ddn(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = fb.attacks.DDNAttack(steps=1000)
        return attack(fb.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=None)[1]

    return {"DDN of foolbox, 1000 steps": ddn}
