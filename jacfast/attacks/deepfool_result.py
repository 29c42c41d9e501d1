"""What DeepFool found."""

import dataclasses

import torch
from torch import Tensor

from jacfast.attacks.attack_result import AttackResult


@dataclasses.dataclass(frozen=True, repr=False)
class DeepFoolResult(AttackResult):
    """An `AttackResult` of N samples, and what it cost; tensors on the device of x.

    Attributes:
        iterations: [N] int64, steps taken.
        stalled: [N] bool: no usable direction, or NaN or infinite logits.
        vjps: [N] int64, vector-Jacobian products spent on the sample.
    """

    iterations: Tensor
    stalled: Tensor
    vjps: Tensor

    def clean_label(self) -> Tensor:
        """Return the class of each sample as it was [N] int64: of those of no step, `label`."""
        return torch.where(self.iterations == 0, self.label, self.before)

    def figures(self) -> dict[str, float]:
        """Return the figures of `summary` by their names."""
        iterations = self.iterations.double()
        return {
            **super().figures(),
            "stalled": int(self.stalled.sum()),
            "iterations, mean": float(iterations.mean()),
            "iterations, most": int(iterations.max()),
            "vector-Jacobian products per sample": float(self.vjps.double().mean()),
        }
