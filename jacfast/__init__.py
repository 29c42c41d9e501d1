"""Jacobian-regularised training and DeepFool evaluation, fast enough to leave in."""

from jacfast import interrupt as interrupt  # isort: split

from jacfast.attacks import (
    DeepFoolResult,
    bim,
    carlini_wagner,
    deepfool,
    deepfool_to_disk,
    fgsm,
    jsma,
    pgd,
)
from jacfast.evaluation import distance_bounds, rho_adv
from jacfast.jacobian import jacobian
from jacfast.penalties import (
    ColumnSumL1,
    CrossLipschitz,
    DecisionFunction,
    EntrywiseL1,
    Frobenius,
    InputGradient,
    JacobianReg,
    Spectral,
    column_sum_l1_penalty,
    cross_lipschitz_penalty,
    decision_function_penalty,
    entrywise_l1_penalty,
    frobenius_penalty,
    input_gradient_penalty,
    spectral_penalty,
)
from jacfast.step import WithPenalty, forward_with_penalty, penalised
from jacfast.training.deep_defense import deep_defense_penalty
from jacfast.version import __version__

__all__ = [
    "ColumnSumL1",
    "CrossLipschitz",
    "DecisionFunction",
    "DeepFoolResult",
    "EntrywiseL1",
    "Frobenius",
    "InputGradient",
    "JacobianReg",
    "Spectral",
    "WithPenalty",
    "__version__",
    "bim",
    "carlini_wagner",
    "column_sum_l1_penalty",
    "cross_lipschitz_penalty",
    "decision_function_penalty",
    "deep_defense_penalty",
    "deepfool",
    "deepfool_to_disk",
    "distance_bounds",
    "entrywise_l1_penalty",
    "fgsm",
    "forward_with_penalty",
    "frobenius_penalty",
    "input_gradient_penalty",
    "jacobian",
    "jsma",
    "penalised",
    "pgd",
    "rho_adv",
    "spectral_penalty",
]
