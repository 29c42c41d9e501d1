"""What each attack of a report did to each sample that the model gets right."""

import dataclasses
from typing import Self

import torch
from torch import Tensor

from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.minimal_norm import minimal_norm
from jacfast.calling import Call
from jacfast.evaluation.distances import distances
from jacfast.robustness.ascents import ascents
from jacfast.robustness.choices import Choices
from jacfast.robustness.gradients import gradients


@dataclasses.dataclass(frozen=True)
class Attacked:
    """What was found at M samples and E sizes; distances are float64, inf where nothing was found.

    Nobody of `later` or `scaled` is in `first`; but who was fooled in both other ways is in both.
    """

    deepfool: Tensor  # [M], the distance of DeepFool's image in the box
    minimal: Tensor  # [M], of that of minimal_norm
    pgd: Tensor  # [M], of the nearest one that a run of PGD found
    first: Tensor  # [M, E] bool, fooled by PGD from its first start
    later: Tensor  # [M, E] bool, not from that, but from a further one
    scaled: Tensor  # [M, E] bool, not from the first start, but with larger logits
    still: Tensor  # [M] bool, no gradient
    saturated: Tensor  # [M] bool, only the plain cross-entropy has none
    drawn: Tensor  # [M] bool, other logits in another call

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """Join consecutive batches, on the CPU."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: torch.cat([getattr(p, name).cpu() for p in parts]) for name in names})


def attack_all(
    call: Call, x: Tensor, y: Tensor, choices: Choices, generator: torch.Generator
) -> Attacked:
    """Attack a batch of samples that the model gets right."""
    p, clip = choices.p, choices.clip
    shortest = minimal_norm.result(call, x, y, p=p, budget=choices.budget, clip=clip)
    return Attacked(
        deepfool=distances(deepfool(call, x, y, p=p, clip=clip), y),
        minimal=distances(shortest, y),
        **ascents(call, x, y, choices, generator),
        **gradients(call, x, y),
    )
