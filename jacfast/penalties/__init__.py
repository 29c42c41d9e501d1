"""Jacobian penalties: a choice of cotangents and a norm."""

from jacfast.penalties.absolute import ColumnSumL1, DecisionFunction, EntrywiseL1
from jacfast.penalties.base import Penalty
from jacfast.penalties.frobenius import JacobianReg, frobenius_penalty
from jacfast.penalties.functions import (
    column_sum_l1_penalty,
    cross_lipschitz_penalty,
    decision_function_penalty,
    entrywise_l1_penalty,
    input_gradient_penalty,
    spectral_penalty,
)
from jacfast.penalties.squares import CrossLipschitz, Frobenius, InputGradient, Spectral

__all__ = [
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
    "spectral_penalty",
]


def __dir__() -> list[str]:
    return sorted(__all__)
