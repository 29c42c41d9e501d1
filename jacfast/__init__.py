"""Jacobian-regularised training and DeepFool evaluation, fast enough to leave in."""

from jacfast.attacks import DeepFoolResult, deepfool, deepfool_to_disk, fgsm
from jacfast.evaluation import distance_bounds, rho_adv
from jacfast.jacobian import jacobian
from jacfast.penalties import JacobianReg, frobenius_penalty
from jacfast.version import __version__

__all__ = [
    "DeepFoolResult",
    "JacobianReg",
    "__version__",
    "deepfool",
    "deepfool_to_disk",
    "distance_bounds",
    "fgsm",
    "frobenius_penalty",
    "jacobian",
    "rho_adv",
]
