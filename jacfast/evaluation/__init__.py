"""Measures of robustness."""

from jacfast.evaluation.bounds import Bounds, distance_bounds
from jacfast.evaluation.rho import rho_adv, rho_of

__all__ = ["Bounds", "distance_bounds", "rho_adv", "rho_of"]
