"""Attacks: each leaves the model as it was and returns tensors without a graph."""

from jacfast.attacks.attack_result import AttackResult
from jacfast.attacks.carlini_wagner import carlini_wagner
from jacfast.attacks.ddn import ddn
from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.deepfool_result import DeepFoolResult
from jacfast.attacks.fgsm import fgsm
from jacfast.attacks.fmn import fmn
from jacfast.attacks.jsma import jsma
from jacfast.attacks.minimal_norm import MinimalNormResult, minimal_norm
from jacfast.attacks.options import PRESETS
from jacfast.attacks.pgd import bim, pgd
from jacfast.attacks.stream import deepfool_to_disk

__all__ = [
    "PRESETS",
    "AttackResult",
    "DeepFoolResult",
    "MinimalNormResult",
    "bim",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "deepfool_to_disk",
    "fgsm",
    "fmn",
    "jsma",
    "minimal_norm",
    "pgd",
]


def __dir__() -> list[str]:
    return sorted(__all__)
