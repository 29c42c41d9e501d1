"""Robust accuracy from distances: what is farther than eps is safe at eps."""

import math

import torch
from torch import Tensor

from jacfast.attacks.measured import AttackResult
from jacfast.attacks.norms import lengths


def distances(found: AttackResult, y: Tensor) -> Tensor:
    """Return ``||r||_p`` where the class is another one than y [N], float64; else inf.

    Logits that are NaN or +inf are no class. Rounded down by what a rounding of x + r can have
    added: an image at the edge of a ball of radius eps is inside it.
    """
    rounding = torch.finfo(found.r.dtype).eps * lengths(found.adversarial, found.p).double()
    far = (found.norm.double() - rounding).clamp(min=0)
    another = (found.label != y) & (found.label >= 0)
    return torch.where(another, far, math.inf)


def share_beyond(eps: float, right: Tensor, far: Tensor) -> float:
    """Return the share of samples that are `right` [N] at x and farther than eps; at 0 of `right`.

    Args:
        far: distances [N], inf where none is known.
    """
    return float((right & ((far > eps) | (eps == 0))).double().mean())
