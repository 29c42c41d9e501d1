"""What the panels of a grid of surfaces share: scales, bars of colours, room for titles."""

from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jacfast.evaluation.surfaces import Surface
from jacfast.plots.style import WIDTH, wrapped

Grid = dict[str, dict[str, Surface]]  # by row and column
Kind = tuple[str, str]  # what it is of, in which space
LABELS = {"loss": "cross-entropy", "decision": "S = z_y - max z_k (0: boundary)"}


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


def titles_of(grid: Grid) -> tuple[dict[tuple[str, str], str], float]:
    """Return the titles, and how many inches they need beside two lines for each row."""
    room = WIDTH / len(next(iter(grid.values()))) - 0.6  # the width of a panel
    titles = {(row, name): wrapped(f"{row}\n{name}", room) for row in grid for name in grid[row]}
    lines = (max(titles[row, name].count("\n") for name in grid[row]) for row in grid)
    return titles, 0.17 * sum(count - 1 for count in lines)


def bars(figure: Figure, drawn: dict[Kind, tuple]) -> None:
    """Draw the bar of colours of each kind under its panels, of a picture and its axes.

    Under all panels where the columns of one kind lie between those of another.
    """
    apart = all(_is_block(where) for _, where in drawn.values())
    panels = list(figure.axes)
    if not apart:  # one below the other
        figure.set_figheight(figure.get_figheight() + 1.1 * (len(drawn) - 1))
    for (of, space), (picture, own) in drawn.items():
        where = own if apart else panels
        label = LABELS[of] if len(drawn) == 1 else f"{LABELS[of]}, {space} space"
        figure.colorbar(
            picture, ax=where, label=label, location="bottom", shrink=0.8, aspect=40, fraction=0.05
        )


def _is_block(axes: list[Axes]) -> bool:
    """Say whether panels are in columns side by side."""
    columns = {axis.get_subplotspec().colspan.start for axis in axes}  # type: ignore[union-attr]
    return max(columns) - min(columns) < len(columns)
