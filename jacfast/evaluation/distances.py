"""Robust accuracy from distances: what is farther than eps is safe at eps."""

import math

import torch
from torch import Tensor

from jacfast.attacks.attack_result import AttackResult


def distances(found: AttackResult, y: Tensor) -> Tensor:
    """Return ``||r||_p`` where the class is another one than y [N], float64; else inf.

    Logits that are NaN or +inf are no class. Of an attack that keeps to a ball nothing is beyond
    its edge: what ``||r||_p`` has more is the rounding of x + r, in half types a tenth of eps.
    """
    far = found.norm.double().clamp(max=found.radius)
    another = (found.label != y) & (found.label >= 0)
    return torch.where(another, far, math.inf)


def share_beyond(eps: float, right: Tensor, far: Tensor) -> float:
    """Return the share of samples that are `right` [N] at x and farther than eps; at 0 all `right`.

    Farther by more than a rounding of float32, in which eps may have been given.

    Args:
        far: distances [N], inf where none is known.
    """
    eps = float(eps)  # of NumPy, too, whose comparisons are no Python bool
    edge = eps * (1 + torch.finfo(torch.float32).eps)
    return float((right & ((far > edge) | (eps == 0))).double().mean())
