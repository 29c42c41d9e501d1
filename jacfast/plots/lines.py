"""The decision function along a line, with its tangents."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jacfast.evaluation.line import Line, crossing
from jacfast.plots.colours import lines
from jacfast.plots.style import WIDTH, check_models, open_frame, panels, wrapped

LENGTH = 0.4  # of a tangent, as a share of the line's


def line_figure(
    found: dict[str, Line], label: str = "t, units of x (largest change of an entry)"
) -> Figure:
    """Draw the decision function S along a line, a panel per model on the same axes.

    With the tangents at both ends (dashed) and the boundary S = 0. In words: where S first is 0,
    the slopes at the ends, and ``Delta = S(end) - S(start)``, which the arrow shows.

    Args:
        found: `decision_line` by model, t increasing, two points at least.
        label: what t is.

    Raises:
        ValueError: there is no model, or a line is not as above.

    Source: Seck, Loosli & Canu, figure 1; Yu, Liu, Wang & Chen, figure 5.
    """
    check_models("found", found, Line)
    for name, line in found.items():
        if len(line.t) < 2 or not bool((line.t.diff() > 0).all()):
            raise ValueError(f"found must have two points or more, t increasing; {name!r} has not")
    columns = min(len(found), 2)
    figure, axes = panels(len(found), columns, 4.2, sharex=True, sharey=True)
    for axis, (name, style) in zip(axes.flat, lines(found), strict=False):
        _line(axis, found[name], style["color"])
        axis.set_title(wrapped(_words(name, found[name]), WIDTH / columns - 0.7), fontsize=10)
        axis.set_xlabel(label, fontsize=9)
    low, high = _range(list(found.values()))
    axes[0, 0].set_ylim(low, high)
    for row in axes:
        row[0].set_ylabel("S = z_y - max z_k (0: boundary)")
    return figure


def _line(axis: Axes, line: Line, colour: str) -> None:
    t, value = line.t.tolist(), line.value.tolist()
    length = LENGTH * (t[-1] - t[0])
    axis.axhline(0, color="black", linewidth=1)
    axis.plot(t, value, color=colour, linewidth=2.2, label="S")
    for i, other in ((0, t[0] + length), (-1, t[-1] - length)):
        far = value[i] + float(line.slope[i]) * (other - t[i])
        axis.plot([t[i], other], [value[i], far], "--", color="black", linewidth=1.4)
        axis.plot(t[i], value[i], "o", color="black", markersize=5, clip_on=False, zorder=3)
    axis.plot([t[0], t[-1]], [value[0], value[0]], ":", color="0.45", linewidth=1.2)
    arrow = {"arrowstyle": "<|-|>", "color": "0.35", "shrinkA": 0, "shrinkB": 3}
    axis.annotate("", (t[-1], value[-1]), (t[-1], value[0]), arrowprops=arrow)
    middle = (value[0] + value[-1]) / 2
    axis.annotate("Δ", (t[-1], middle), (-6, 0), textcoords="offset points", ha="right")
    axis.set_xlim(t[0], t[-1])
    open_frame(axis)


def _words(name: str, line: Line) -> str:
    start, end = float(line.t[0]), float(line.t[-1])
    where = crossing(line.t, line.value)
    boundary = "no boundary" if where is None else f"S = 0 at t = {where:.3g}"
    change = float(line.value[-1] - line.value[0])
    first, last = float(line.slope[0]), float(line.slope[-1])
    slopes = f"slope {first:.3g} at t = {start:.3g}, {last:.3g} at t = {end:.3g}"
    return f"{name}: {boundary}\n{slopes}; Δ = {change:.3g}"


def _range(found: list[Line]) -> tuple[float, float]:
    values = [v for line in found for v in line.value[line.value.isfinite()].tolist()] + [0.0]
    margin = 0.06 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin
