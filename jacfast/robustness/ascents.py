"""PGD at each eps: from a first start, from the same one with larger logits, and from others."""

import math
from typing import Any

import torch
from torch import Tensor

from jacfast.attacks.measured import AttackResult
from jacfast.attacks.pgd import pgd
from jacfast.calling import Call, logits_of
from jacfast.evaluation.distances import distances
from jacfast.robustness.choices import Choices

SCALE = 100.0


def ascents(
    call: Call, x: Tensor, y: Tensor, choices: Choices, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return who was fooled from where [N, E], and the distance to the nearest image found [N]."""
    nearest = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
    runs: dict[str, list[Tensor]] = {"first": [], "scaled": [], "later": []}
    same = torch.Generator(generator.device)
    for eps in choices.eps:
        same.set_state(generator.get_state())
        first = _run(call, x, y, choices, eps, generator=generator)
        scaled = _run(_larger(call, len(x)), x, y, choices, eps, generator=same)
        later = torch.zeros_like(first.success)
        for found in (first, scaled):
            nearest = torch.minimum(nearest, distances(found, y))
        left = (~first.success).nonzero()[:, 0]
        if len(left) and choices.restarts > 1:
            more = {"restarts": choices.restarts - 1, "generator": generator}
            found = _run(call.rows(left), x[left], y[left], choices, eps, **more)
            nearest[left] = torch.minimum(nearest[left], distances(found, y[left]))
            later[left] = found.success
        runs["first"].append(first.success)
        runs["scaled"].append(scaled.success & ~first.success)
        runs["later"].append(later)
    return {"pgd": nearest, **{name: torch.stack(who, dim=1) for name, who in runs.items()}}


def _run(
    call: Call, x: Tensor, y: Tensor, choices: Choices, eps: float, **options: Any
) -> AttackResult:
    c = choices
    return pgd.result(call, x, y, eps=eps, p=c.p, steps=c.steps, clip=c.clip, **options)


def _larger(call: Call, samples: int) -> Call:
    """Return the call of the same samples with its logits times 100."""
    return Call(lambda x: SCALE * logits_of(call, x), samples)
