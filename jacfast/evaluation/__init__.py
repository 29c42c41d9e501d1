"""Measures of robustness."""

from jacfast.evaluation.accuracies import accuracy, accuracy_curve, reference_epsilon
from jacfast.evaluation.bounds import Bounds, distance_bounds
from jacfast.evaluation.decision import curvature, decision_function, decision_gradient
from jacfast.evaluation.hessian import hessian_eigenvalues
from jacfast.evaluation.jacobians import Statistics, jacobian_norm, jacobian_statistics
from jacfast.evaluation.rho import rho_adv, rho_of
from jacfast.evaluation.roc import Roc, roc_curves

__all__ = [
    "Bounds",
    "Roc",
    "Statistics",
    "accuracy",
    "accuracy_curve",
    "curvature",
    "decision_function",
    "decision_gradient",
    "distance_bounds",
    "hessian_eigenvalues",
    "jacobian_norm",
    "jacobian_statistics",
    "reference_epsilon",
    "rho_adv",
    "rho_of",
    "roc_curves",
]
