"""Loss and decision surfaces, as contours and in relief."""

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacfast.evaluation import line
from jacfast.evaluation.surfaces import Surface
from jacfast.plots.scales import LABELS, Grid, Kind, Scale, bars, kind, scales, titles_of
from jacfast.plots.style import check_named, new_figure, no_boundary

COLOURMAPS = {"loss": "cividis_r", "decision": "RdBu"}
UNITS = {"input": "units of x (L2)", "parameter": "1: norm of the weights"}
LEVELS = 16


def contour_figure(grid: Grid) -> Figure:
    """Draw surfaces as filled contours, with one colour scale for all of a kind and space.

    For the decision function the boundary S = 0 is a thick line, and in input space an arrow leads
    from the image along the first direction to where S becomes negative, with its length. A panel
    without a boundary says so.

    Args:
        grid: surfaces by row and column, from `input_surface` or `parameter_surface`.

    Raises:
        ValueError: the rows have different columns, or a surface is one of labels.

    Source: Yu, Liu, Wang & Chen, figures 1 to 4, 6, 7, 9.
    """
    _check(grid)
    rows, columns = len(grid), len(next(iter(grid.values())))
    shared = scales(grid)
    titles, more = titles_of(grid)
    figure = new_figure(rows * (8.6 / max(columns, 2) + 0.8) + 0.75 + more)
    axes = figure.subplots(rows, columns, squeeze=False)
    drawn: dict[Kind, tuple] = {}
    for axis_row, (row, surfaces) in zip(axes, grid.items(), strict=True):
        for axis, (column, surface) in zip(axis_row, surfaces.items(), strict=True):
            picture = _contours(axis, surface, shared[kind(surface)])
            axis.set_title(titles[row, column], fontsize=10)
            drawn.setdefault(kind(surface), (picture, []))[1].append(axis)
            axis.set_xlabel(f"a, {UNITS[surface.space]}", fontsize=9)
        axis_row[0].set_ylabel("b")
    bars(figure, drawn)
    return figure


def relief_figure(grid: Grid) -> Figure:
    """Draw surfaces in relief, with one height and colour scale for all of a kind and space.

    The boundary S = 0 is a black line; a panel without one says so. Args, Raises: as for
    `contour_figure`.

    Source: Yu, Liu, Wang & Chen, figures 1 to 3, 6, 7.
    """
    _check(grid)
    rows, columns = len(grid), len(next(iter(grid.values())))
    shared = scales(grid)
    titles, more = titles_of(grid)
    # beside panels as wide, words: in few columns a panel of 4.2 inches has room for its own
    height = min(8.6 / columns + 0.8, 4.2)
    figure = new_figure(rows * height + 0.75 + more)
    if height < 4.2:  # where panels are as wide as they may be, their words pass below them
        figure.get_layout_engine().set(h_pad=0.15)  # type: ignore[union-attr, call-arg]
    drawn: dict[Kind, tuple] = {}
    for i, (row, surfaces) in enumerate(grid.items()):
        for j, (column, surface) in enumerate(surfaces.items()):
            axis = figure.add_subplot(rows, columns, i * columns + j + 1, projection="3d")
            picture = _relief(axis, surface, shared[kind(surface)])
            axis.set_title(titles[row, column], fontsize=10)
            drawn.setdefault(kind(surface), (picture, []))[1].append(axis)
    bars(figure, drawn)
    return figure


def crossing(surface: Surface) -> float | None:
    """Return where along a >= 0, at b = 0, the decision function first is not positive."""
    middle = len(surface.steps) // 2
    return line.crossing(surface.steps[middle:], surface.values[middle:, middle])


def _check(grid: Grid) -> None:
    check_named("grid", grid, Mapping)
    for row in grid.values():
        check_named("grid", row, Surface)
    columns = [list(row) for row in grid.values()]
    if not columns or not columns[0] or any(row != columns[0] for row in columns):
        raise ValueError(f"grid must have rows with the same columns; got {columns}")
    for row in grid.values():
        for name, surface in row.items():
            if surface.of not in LABELS:
                raise ValueError(f"grid must hold losses or decision functions; {name!r} does not")


def _contours(axis: Axes, surface: Surface, scale: Scale):
    steps, values = surface.steps.numpy(), surface.values.T.numpy()
    levels = MaxNLocator(LEVELS).tick_values(scale.low, scale.high)
    picture = axis.contourf(
        steps, steps, values, levels=levels, cmap=COLOURMAPS[surface.of], norm=scale.norm
    )
    # the first level is not above any value: its line would be that of roundings of zero losses
    axis.contour(steps, steps, values, levels=levels[1:], colors="black", linewidths=0.3)
    axis.plot(0, 0, "o", color="black", markersize=4)
    axis.set_aspect("equal")
    if surface.of == "decision":
        if _bounded(axis, surface):
            axis.contour(steps, steps, values, levels=[0.0], colors="black", linewidths=2.2)
        end = crossing(surface) if surface.space == "input" else None
        if end is not None:
            _arrow(axis, end)
    return picture


def _relief(axis, surface: Surface, scale: Scale):
    a, b = torch.meshgrid(surface.steps, surface.steps, indexing="ij")
    picture = axis.plot_surface(
        a.numpy(),
        b.numpy(),
        surface.values.numpy(),
        cmap=COLOURMAPS[surface.of],
        norm=scale.norm,
        edgecolor="black",
        linewidth=0.15,
    )
    if surface.of == "decision" and _bounded(axis, surface):
        axis.computed_zorder = False  # the boundary on top of the surface
        axis.contour(
            a.numpy(), b.numpy(), surface.values.numpy(), levels=[0.0], colors="black", zorder=9
        )
    axis.set_zlim(scale.low, scale.high)
    axis.set_xlabel(f"a, {UNITS[surface.space]}", fontsize=9)
    axis.set_ylabel("b")
    axis.set_box_aspect((4, 4, 3), zoom=0.92)
    return picture


def _bounded(axis: Axes, surface: Surface) -> bool:
    """Return whether a decision function has both signs; say in its panel if it has not."""
    both = bool((surface.values > 0).any() and (surface.values < 0).any())
    if not both:
        no_boundary(axis, float(surface.steps[-1]))
    return both


def _arrow(axis: Axes, end: float) -> None:
    style = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0, "linewidth": 1.5}
    axis.annotate("", xy=(end, 0), xytext=(0, 0), arrowprops=style)
    box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.0}
    axis.annotate(
        f"{end:.2f}", (0, 0), (0, 6), textcoords="offset points", fontsize=9, bbox=box, ha="right"
    )
