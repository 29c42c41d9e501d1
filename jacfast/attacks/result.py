"""What DeepFool found."""

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class DeepFoolResult:
    """The perturbation of each of N samples, and what it cost; tensors on the device of x."""

    adversarial: Tensor  # [N, ...], the perturbed inputs
    r: Tensor  # [N, ...], adversarial - x
    norm: Tensor  # [N], ||r||_2
    iterations: Tensor  # [N] int64, steps taken
    success: Tensor  # [N] bool: the class of `adversarial`, evaluated anew, is not `before`
    before: Tensor  # [N] int64, the class to leave
    label: Tensor  # [N] int64, the class of `adversarial`
    stalled: Tensor  # [N] bool: no usable direction, or NaN or infinite logits
    vjps: Tensor  # [N] int64, vector-Jacobian products spent on the sample

    @staticmethod
    def cat(parts: list["DeepFoolResult"]) -> "DeepFoolResult":
        """Join the results of consecutive batches."""
        names = [field.name for field in dataclasses.fields(DeepFoolResult)]
        return DeepFoolResult(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        )
