"""Attacks: each leaves the model as it was and returns tensors without a graph."""

from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.fgsm import fgsm
from jacfast.attacks.options import PRESETS
from jacfast.attacks.result import DeepFoolResult

__all__ = ["PRESETS", "DeepFoolResult", "deepfool", "fgsm"]
