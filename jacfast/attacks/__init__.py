"""Attacks: each leaves the model as it was and returns tensors without a graph."""

from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.fgsm import fgsm
from jacfast.attacks.options import PRESETS
from jacfast.attacks.result import DeepFoolResult
from jacfast.attacks.stream import deepfool_to_disk

__all__ = ["PRESETS", "DeepFoolResult", "deepfool", "deepfool_to_disk", "fgsm"]
