"""Robust accuracy by attack."""

import math
from typing import TYPE_CHECKING

import numpy
from matplotlib.figure import Figure

from jacfast.evaluation.distances import share_beyond
from jacfast.plots.colours import COLOURS
from jacfast.plots.style import legend_below, new_figure, open_frame

if TYPE_CHECKING:
    from jacfast.robustness import RobustnessReport

POINTS = 400
STYLES: dict[str, dict] = {
    "DeepFool": {"linestyle": "--", "linewidth": 1.8},
    "minimal norm": {"linewidth": 4, "alpha": 0.5},  # seen below the worst case, which is often it
    "worst case": {"color": "black", "linewidth": 1.2},
}


def robustness_figure(report: "RobustnessReport") -> Figure:
    """Draw the accuracy that is left at each eps, by attack: curves, and a point per eps of PGD.

    DeepFool and minimal norm give a distance for each image, and so a whole curve; PGD was run at
    some sizes. The worst case takes the nearest image that any of them found.

    Args:
        report: of `jacfast.robustness_report`.

    Source: the curves: Carlini et al. 2019 (arXiv 1902.06705).
    """
    choices, far = report.choices, report.distances
    end = 1.1 * max(choices.eps)
    far98 = float(far["worst case"].quantile(0.98, interpolation="lower"))
    if math.isfinite(far98):
        end = max(end, far98)
    sizes = numpy.linspace(0, end, POINTS).tolist()
    figure = new_figure(4.6)
    axis = figure.subplots()
    colours = dict(zip(far, COLOURS, strict=False))
    for name, style in STYLES.items():
        shares = [100 * share_beyond(eps, report.right, far[name]) for eps in sizes]
        axis.plot(sizes, shares, **({"color": colours[name], "label": name} | style))
    axis.plot(
        choices.eps,
        [100 * share_beyond(eps, report.right, far["PGD"]) for eps in choices.eps],
        "o",
        color=colours["PGD"],
        label="PGD",
    )
    axis.set_ylim(0, 101)
    axis.set_xlim(0, end)
    norm = "maximum norm" if choices.p == float("inf") else f"{choices.p:g}-norm"
    axis.set_xlabel(f"eps in the {norm}, units of x")
    axis.set_ylabel("accuracy that is left, %")
    open_frame(axis)
    legend_below(figure, axis)
    return figure
