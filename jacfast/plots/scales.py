"""The scales that surfaces of a kind share."""

from typing import NamedTuple

import torch
from matplotlib.colors import Normalize

from jacfast.evaluation.surfaces import Surface

Grid = dict[str, dict[str, Surface]]  # by row and column
Kind = tuple[str, str]  # what it is of, in which space


class Scale(NamedTuple):
    """What all surfaces of a kind share."""

    low: float
    high: float
    norm: Normalize


def kind(surface: Surface) -> Kind:
    """Return what decides which surfaces share a scale."""
    return surface.of, surface.space


def scales(grid: Grid) -> dict[Kind, Scale]:
    """Return the scale of each kind in a grid; infinite values are beyond it."""
    values: dict[Kind, list] = {}
    for row in grid.values():
        for surface in row.values():
            values.setdefault(kind(surface), []).append(surface.values.flatten())
    return {what: _scale(what[0], torch.cat(parts)) for what, parts in values.items()}


def _scale(of: str, values: torch.Tensor) -> Scale:
    finite = values[values.isfinite()].tolist() or [0.0]
    low, high = min(finite), max(finite)
    if high == low:
        high = low + 1
    end = max(-low, high)  # the colours of S part at 0
    return Scale(low, high, Normalize(-end, end) if of == "decision" else Normalize(low, high))
