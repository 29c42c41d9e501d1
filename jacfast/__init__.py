"""Jacobian-regularised training and DeepFool evaluation, fast enough to leave in.

Names are imported when they are asked for, PyTorch with the first of them.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from jacfast import (
    after_torch,  # noqa: F401
    interrupt,  # noqa: F401  # isort: split
)
from jacfast.version import __version__

if TYPE_CHECKING:
    from jacfast import attacks as attacks
    from jacfast import data as data
    from jacfast import evaluation as evaluation
    from jacfast import models as models
    from jacfast import ops as ops
    from jacfast import penalties as penalties
    from jacfast import training as training
    from jacfast.attacks import AttackResult as AttackResult
    from jacfast.attacks import DeepFoolResult as DeepFoolResult
    from jacfast.attacks import MinimalNormResult as MinimalNormResult
    from jacfast.attacks import deepfool_to_disk as deepfool_to_disk
    from jacfast.attacks.carlini_wagner import carlini_wagner as carlini_wagner
    from jacfast.attacks.ddn import ddn as ddn
    from jacfast.attacks.deepfool import deepfool as deepfool
    from jacfast.attacks.fgsm import fgsm as fgsm
    from jacfast.attacks.fmn import fmn as fmn
    from jacfast.attacks.jsma import jsma as jsma
    from jacfast.attacks.minimal_norm import minimal_norm as minimal_norm
    from jacfast.attacks.pgd import bim as bim
    from jacfast.attacks.pgd import pgd as pgd
    from jacfast.evaluation import distance_bounds as distance_bounds
    from jacfast.evaluation import rho_adv as rho_adv
    from jacfast.penalties import R1 as R1
    from jacfast.penalties import R2 as R2
    from jacfast.penalties import WGANGP as WGANGP
    from jacfast.penalties import ColumnSumL1 as ColumnSumL1
    from jacfast.penalties import CrossLipschitz as CrossLipschitz
    from jacfast.penalties import DecisionFunction as DecisionFunction
    from jacfast.penalties import EntrywiseL1 as EntrywiseL1
    from jacfast.penalties import Frobenius as Frobenius
    from jacfast.penalties import InputGradient as InputGradient
    from jacfast.penalties import JacobianReg as JacobianReg
    from jacfast.penalties import Spectral as Spectral
    from jacfast.penalties import column_sum_l1_penalty as column_sum_l1_penalty
    from jacfast.penalties import cross_lipschitz_penalty as cross_lipschitz_penalty
    from jacfast.penalties import decision_function_penalty as decision_function_penalty
    from jacfast.penalties import entrywise_l1_penalty as entrywise_l1_penalty
    from jacfast.penalties import frobenius_penalty as frobenius_penalty
    from jacfast.penalties import input_gradient_penalty as input_gradient_penalty
    from jacfast.penalties import r1_penalty as r1_penalty
    from jacfast.penalties import r2_penalty as r2_penalty
    from jacfast.penalties import spectral_penalty as spectral_penalty
    from jacfast.penalties import wgan_gp_penalty as wgan_gp_penalty
    from jacfast.robustness import RobustnessReport as RobustnessReport
    from jacfast.robustness import robustness_report as robustness_report
    from jacfast.rows import jacobian as jacobian
    from jacfast.step import WithPenalty as WithPenalty
    from jacfast.step import forward_with_penalty as forward_with_penalty
    from jacfast.step import penalised as penalised
    from jacfast.timing import bench as bench
    from jacfast.training import deep_defense_penalty as deep_defense_penalty

# Who has each name. No other module here may have such a name: its import would put the module in
# the place of what is meant.
_PACKAGES = ("attacks", "data", "evaluation", "models", "ops", "penalties", "training")
_OFFERED = {
    "attacks": (
        "AttackResult DeepFoolResult MinimalNormResult bim carlini_wagner ddn deepfool "
        "deepfool_to_disk fgsm fmn jsma minimal_norm pgd"
    ),
    "evaluation": "distance_bounds rho_adv",
    "penalties": (
        "ColumnSumL1 CrossLipschitz DecisionFunction EntrywiseL1 Frobenius InputGradient "
        "JacobianReg R1 R2 Spectral WGANGP column_sum_l1_penalty cross_lipschitz_penalty "
        "decision_function_penalty entrywise_l1_penalty frobenius_penalty input_gradient_penalty "
        "r1_penalty r2_penalty spectral_penalty wgan_gp_penalty"
    ),
    "robustness": "RobustnessReport robustness_report",
    "rows": "jacobian",
    "step": "WithPenalty forward_with_penalty penalised",
    "timing": "bench",
    "training": "deep_defense_penalty",
}
_HOMES = {name: home for home, names in _OFFERED.items() for name in names.split()}
__all__ = ["__version__", *_PACKAGES, *_HOMES]

if not TYPE_CHECKING:  # which would take any name for one of these

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is not None:
            value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        elif name.isidentifier() and importlib.util.find_spec(f"{__name__}.{name}"):
            value = importlib.import_module(f"{__name__}.{name}")  # a module, listed or not
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value  # found without this the next time
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
