"""Jacobian penalties: a choice of cotangents and a norm."""

from jacfast.penalties.absolute import ColumnSumL1, DecisionFunction, EntrywiseL1
from jacfast.penalties.base import Penalty
from jacfast.penalties.frobenius import Frobenius, JacobianReg, frobenius_penalty
from jacfast.penalties.functions import (
    column_sum_l1_penalty,
    cross_lipschitz_penalty,
    decision_function_penalty,
    entrywise_l1_penalty,
    input_gradient_penalty,
    r1_penalty,
    r2_penalty,
    spectral_penalty,
    wgan_gp_penalty,
)
from jacfast.penalties.gradients import R1, R2, WGANGP, InputGradient
from jacfast.penalties.squares import CrossLipschitz, Spectral

__all__ = [
    "R1",
    "R2",
    "WGANGP",
    "ColumnSumL1",
    "CrossLipschitz",
    "DecisionFunction",
    "EntrywiseL1",
    "Frobenius",
    "InputGradient",
    "JacobianReg",
    "Penalty",
    "Spectral",
    "column_sum_l1_penalty",
    "cross_lipschitz_penalty",
    "decision_function_penalty",
    "entrywise_l1_penalty",
    "frobenius_penalty",
    "input_gradient_penalty",
    "r1_penalty",
    "r2_penalty",
    "spectral_penalty",
    "wgan_gp_penalty",
]


def __dir__() -> list[str]:
    return sorted(__all__)
