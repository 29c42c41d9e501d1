"""Where the search for the shortest perturbation begins: the nearest boundaries, seen from x."""

import math

import torch
from torch import Tensor

from jacfast import cotangents
from jacfast.attacks.frame import Frame
from jacfast.attacks.gradient import finite_rows
from jacfast.attacks.lanes import Lanes
from jacfast.attacks.losses import Criterion, sure
from jacfast.attacks.search import largest_others, rows_at_once

ROWS = 0.25  # of the budget, at most: rows at x
LOOK = 2  # passes of a look: one forward, one backward


def first_cuts(
    frame: Frame,
    leaf: Tensor,
    logits: Tensor,
    wanted: Criterion,
    budget: int,
    race: int,
    candidates: int | None,
    lost: Tensor,
) -> tuple[Lanes, int]:
    """Return lanes with a cut at x each, as many for each sample, and the rows computed.

    Those of a sample stand side by side, the nearest first. Targeted there is one, as all classes
    must be beaten at once.

    Args:
        leaf, logits: the graph of the samples as they are.
        budget: passes for all; race: those of them for rows and race.
        candidates: as of `minimal_norm`; lost: as of `finite_rows`.
    """
    everyone = torch.arange(len(logits), device=logits.device)
    if wanted.targeted:
        lanes = Lanes.begin(everyone, wanted.labels, frame.flat)
        v = wanted.cotangent("margin", logits)[None]
        g = finite_rows(logits, leaf, v, lost)[0]
        lanes.cut(lanes.best, wanted.value("margin", logits) - sure(logits), g)
        return lanes, 1
    most = 1 + max(1, int(ROWS * budget))
    labels = largest_others(logits.detach(), wanted.labels, min(candidates or most, most))
    rows = labels.shape[1]
    # as many looks as lanes, or one more
    each = max(1, math.isqrt((race - rows) // LOOK))
    lanes, distance = _towards(frame, leaf, logits, wanted.labels, labels[:, :0], lost)
    for some in labels.split(rows_at_once(leaf), dim=1):
        more, far = _towards(frame, leaf, logits, wanted.labels, some, lost)
        lanes, distance = _joined(lanes, more, len(logits)), torch.cat([distance, far], dim=1)
        order = distance.argsort(dim=1, stable=True)[:, :each]
        lanes = lanes[(order + everyone[:, None] * distance.shape[1]).flatten()]
        distance = distance.gather(1, order)
    return lanes, rows


def _towards(
    frame: Frame, leaf: Tensor, logits: Tensor, origin: Tensor, labels: Tensor, lost: Tensor
) -> tuple[Lanes, Tensor]:
    """Return lanes for the classes `labels` [N, c], sample by sample, and distances [N, c].

    A boundary that does not meet the box, or has no gradient, is infinitely far.
    """
    samples, rows = labels.shape
    sample = torch.arange(samples, device=labels.device).repeat_interleave(rows)
    lanes = Lanes.begin(sample, labels.flatten(), frame.flat)
    if rows == 0:
        return lanes, lanes.size.view(samples, 0)
    v = cotangents.boundaries(logits, labels, origin)
    g = finite_rows(logits, leaf, v, lost).transpose(0, 1).flatten(0, 1)
    z, least = logits.detach().double(), sure(logits)[:, None]
    lanes.cut(lanes.best, (z.gather(1, labels) - z.gather(1, origin[:, None]) - least).flatten(), g)
    r, missed = frame.shortest(lanes)
    c = lanes.c[:, -1]
    far = torch.where((missed <= 1e-3 * c.abs()) & c.isfinite(), frame.length(r), math.inf)
    return lanes, far.view(samples, rows)


def _joined(lanes: Lanes, more: Lanes, samples: int) -> Lanes:
    """Join lanes sample by sample."""
    fields = {}
    for name, value in vars(lanes).items():
        both = (value, getattr(more, name))
        each = [part.view(samples, len(part) // samples, *part.shape[1:]) for part in both]
        fields[name] = torch.cat(each, dim=1).flatten(0, 1)
    return Lanes(**fields)
