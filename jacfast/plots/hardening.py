"""A classifier before and after hardening."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from jacfast.attacks import DeepFoolResult
from jacfast.plots.colours import lines
from jacfast.plots.perturbations import choose, draw_perturbations, ratios
from jacfast.plots.style import check_named, open_frame

ROWS = 6  # images to show


def hardening_figure(x: Tensor, y: Tensor, before: DeepFoolResult, after: DeepFoolResult) -> Figure:
    """Draw what DeepFool needs to fool a classifier before and after hardening.

    Left, one image per row: the original, the perturbed images, and the perturbations r on one
    colour scale, with ||r||_p / ||x||_p on each, of six that both models classify correctly and
    DeepFool fooled in both, one of each class first. Right: the distribution of ||r||_p / ||x||_p
    over all images that have one: of an image of zeros there is none.

    Args:
        x: [N, 1 or 3, H, W] in [0, 1]; y: [N] true labels.
        before, after: `deepfool` of the two models at x.

    Raises:
        TypeError, ValueError: as `perturbation_figure`.

    Source: the measure: Moosavi-Dezfooli, Fawzi & Frossard 2016, eq. 15; the images: Lim, figures
    2 and 3.
    """
    results = {"before": before, "after": after}
    check_named("before and after", results, DeepFoolResult)
    shown = choose(y, [before, after], ROWS)
    height = 1.5 * max(len(shown), 3) + 0.9
    figure = Figure(figsize=(13, height), dpi=110, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.75, 1))  # type: ignore[misc]
    draw_perturbations(left, x, shown, results)
    axis = right.subplots()
    _distribution(axis, {name: ratios(found, x) for name, found in results.items()})
    axis.set_xlabel(f"||r|| / ||x|| in the {before.p:g}-norm, DeepFool (last bar: all beyond)")
    return figure


def _distribution(axis: Axes, shares: dict[str, Tensor]) -> None:
    fine = {name: ratio[ratio.isfinite()] for name, ratio in shares.items()}
    every = torch.cat(list(fine.values()))
    top = float(every.quantile(0.995)) if len(every) else 1.0
    for name, style in lines(shares):
        ratio, colour = fine[name], style["color"]
        mean, less = float(ratio.mean()), len(shares[name]) - len(ratio)
        left_out = f", {less} without left out" if less else ""
        axis.hist(
            ratio.clamp(max=top).numpy(force=True),
            bins=40,
            range=(0, top),
            color=colour,
            alpha=0.55,
            label=f"{name}: mean (rho_adv) {mean:.3f}{left_out}",
        )
        axis.axvline(mean, color=colour, linewidth=1.5)
    axis.set_ylabel("images")
    axis.legend(frameon=False)
    open_frame(axis)
