"""Measures of robustness."""

from jacfast.evaluation.accuracies import accuracy, accuracy_curve
from jacfast.evaluation.bounds import Bounds, distance_bounds
from jacfast.evaluation.decision import curvature, decision_function, decision_gradient
from jacfast.evaluation.directions import input_direction, plane
from jacfast.evaluation.hessian import decision_hessian, hessian_eigenvalues
from jacfast.evaluation.inequalities import (
    Inequality,
    curvature_bound,
    inner_distance_bound,
    mean_value_bound,
)
from jacfast.evaluation.jacobians import Statistics, jacobian_norm, jacobian_statistics
from jacfast.evaluation.line import Line, decision_line
from jacfast.evaluation.over import mean_over
from jacfast.evaluation.predict import predict
from jacfast.evaluation.reference import reference_epsilon
from jacfast.evaluation.rho import rho_adv, rho_of
from jacfast.evaluation.roc import Roc, roc_curves
from jacfast.evaluation.surfaces import Surface, input_surface, parameter_surface
from jacfast.evaluation.weights import parameter_directions

__all__ = [
    "Bounds",
    "Inequality",
    "Line",
    "Roc",
    "Statistics",
    "Surface",
    "accuracy",
    "accuracy_curve",
    "curvature",
    "curvature_bound",
    "decision_function",
    "decision_gradient",
    "decision_hessian",
    "decision_line",
    "distance_bounds",
    "hessian_eigenvalues",
    "inner_distance_bound",
    "input_direction",
    "input_surface",
    "jacobian_norm",
    "jacobian_statistics",
    "mean_over",
    "mean_value_bound",
    "parameter_directions",
    "parameter_surface",
    "plane",
    "predict",
    "reference_epsilon",
    "rho_adv",
    "rho_of",
    "roc_curves",
]


def __dir__() -> list[str]:
    return sorted(__all__)
