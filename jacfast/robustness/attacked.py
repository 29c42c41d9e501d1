"""What each attack of a report did to each sample that the model gets right."""

import dataclasses
import math
from typing import Any, Self

import torch
from torch import Tensor

from jacfast.attacks.attack_result import AttackResult
from jacfast.attacks.box import Clip
from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.gradient import finite_rows, forward, look
from jacfast.attacks.losses import Criterion
from jacfast.attacks.minimal_norm import minimal_norm
from jacfast.attacks.pgd import pgd
from jacfast.calling import Call, apart, largest, logits_of, quiet
from jacfast.evaluation.distances import distances

SCALE = 100.0  # of the logits, in the runs that are `scaled`


@dataclasses.dataclass(frozen=True)
class Choices:
    """As `robustness_report` has them; it says what each means."""

    p: float
    eps: tuple[float, ...]
    budget: int
    steps: int
    restarts: int
    clip: Clip


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


def ascents(
    call: Call, x: Tensor, y: Tensor, choices: Choices, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return who was fooled from where [N, E], and the distance to the nearest image found [N]."""
    nearest = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
    runs: dict[str, list[Tensor]] = {"first": [], "scaled": [], "later": []}
    same = torch.Generator(generator.device)
    larger = Call(lambda x: SCALE * logits_of(call, x), len(x))
    for eps in choices.eps:
        same.set_state(generator.get_state())
        first = _run(call, x, y, choices, eps, generator=generator)
        scaled = _run(larger, x, y, choices, eps, generator=same)
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


def gradients(call: Call, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return who has no gradient, who none of the plain cross-entropy, who is drawn anew [N] bool.

    The plain cross-entropy has the cotangent softmax - e_y, which is 0 where p_y rounds to 1 and
    the others to 0; attacks of other toolboxes follow it.
    """
    with quiet(call):
        leaf, logits = forward(call, x)
        margin = Criterion(y).cotangent("margin", logits)
        plain = logits.detach().softmax(dim=1)
        plain = plain.scatter_add(1, y[:, None], -torch.ones_like(plain[:, :1]))
        lost = torch.zeros_like(y)  # which the sign tells, and no warning
        rows = finite_rows(logits, leaf, torch.stack([margin, plain]), lost)
        again = look(call, x)
    still, saturated = (rows == 0).all(dim=2)
    least = torch.finfo(logits.dtype).eps ** 0.5 * largest(logits)
    return {
        "still": still,
        "saturated": saturated & ~still,
        "drawn": apart(logits, again).amax(dim=1) > least,
    }
