"""Measures of robustness."""

from jacfast.evaluation.rho import rho_adv, rho_of

__all__ = ["rho_adv", "rho_of"]
