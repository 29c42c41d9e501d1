"""Attacks: each leaves the model as it was and returns tensors without a graph."""

from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.fgsm import fgsm
from jacfast.attacks.result import DeepFoolResult

__all__ = ["DeepFoolResult", "deepfool", "fgsm"]
