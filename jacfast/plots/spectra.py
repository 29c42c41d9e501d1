"""Histograms of Jacobian entries, and spectra of Hessians."""

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from jacfast.checks import above_zero
from jacfast.plots.colours import lines
from jacfast.plots.style import (
    WIDTH,
    ZERO,
    check_models,
    label_of,
    legend_below,
    new_figure,
    open_frame,
    wrapped,
)

BINS = 60


def spectra_figure(
    entries: dict[str, Tensor],
    eigenvalues: dict[str, Tensor],
    threshold: float = ZERO,
    second: str = "eigenvalue of the Hessian of S",
) -> Figure:
    """Draw the magnitudes of Jacobian entries and of Hessian eigenvalues.

    Left: a histogram; values below a hundredth of the threshold, zeros among them, are in its first
    bar. Right: the largest magnitude, the second largest and so on, each as the mean over samples,
    as far as they are above a hundredth of the threshold. The titles give the shares of all values
    below the threshold (dotted lines), with which Yu et al. count zeros.

    Args:
        entries: any shape, by model: of `decision_gradient` or `jacobian`.
        eigenvalues: [N, D], by model: of `hessian_eigenvalues`.
        threshold: below which a value counts as zero, > 0.
        second: what the eigenvalues are.

    Raises:
        TypeError: threshold is no number. ValueError: there is no model, threshold is not positive,
            or eigenvalues are not [N, D].

    Source: Yu, Liu, Wang & Chen, figure 8 and section 4.3.
    """
    check_models("entries", entries, Tensor)
    check_models("eigenvalues", eigenvalues, Tensor)
    above_zero("threshold", threshold)
    for name, values in eigenvalues.items():
        if values.dim() != 2:
            raise ValueError(f"eigenvalues must be [N, D]; {name!r} has {list(values.shape)}")
    figure = new_figure(4.2)
    left, right = figure.subplots(1, 2)
    _histogram(left, {name: _sizes(values) for name, values in entries.items()}, threshold)
    left.set_xlabel("|entry of the Jacobian|, logit per unit of x")
    _spectrum(right, {name: _sizes(values) for name, values in eigenvalues.items()}, threshold)
    right.set_xlabel(f"rank of the {second}", fontsize=9)
    beyond = max(axis.get_title().count("\n") - 1 for axis in (left, right))  # two lines of titles
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, beyond))
    legend_below(figure, left)
    return figure


def _sizes(values: Tensor) -> numpy.ndarray:
    return values.detach().double().abs().cpu().numpy()


def _histogram(axis: Axes, sizes: dict[str, numpy.ndarray], threshold: float) -> None:
    low = threshold / 100
    top = max(size[numpy.isfinite(size)].max(initial=0) for size in sizes.values())
    edges = numpy.geomspace(low, max(1.1 * top, 10 * threshold), BINS + 1)
    for name, style in lines(sizes):
        size = sizes[name].ravel()
        share = numpy.full(len(size), 100 / len(size))
        style |= {"label": label_of(name), "histtype": "step"}
        axis.hist(size.clip(min=low), edges.tolist(), weights=share, **style)
    axis.axvline(threshold, color="0.4", linestyle=":")
    axis.set_xscale("log")
    axis.set_ylabel("share of entries, %")
    _title(axis, sizes, threshold)


def _spectrum(axis: Axes, sizes: dict[str, numpy.ndarray], threshold: float) -> None:
    for name, style in lines(sizes):
        means = numpy.sort(sizes[name], axis=1)[:, ::-1].mean(axis=0)
        shown = means[means >= threshold / 100]
        dots = "." if len(shown) <= BINS else ""  # more of them would hide the dashes
        axis.plot(numpy.arange(1, len(shown) + 1), shown, marker=dots, **style)
    axis.axhline(threshold, color="0.4", linestyle=":")
    axis.set_yscale("log")
    axis.set_ylabel("|eigenvalue|,\nlogit per squared unit of x")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _title(axis, sizes, threshold)


def _title(axis: Axes, sizes: dict[str, numpy.ndarray], threshold: float) -> None:
    shares = [
        f"{name}: {100 * (size < threshold).mean():.1f}% below {threshold:g}"
        for name, size in sizes.items()
    ]
    axis.set_title(wrapped("\n".join(shares), WIDTH / 2 - 0.7), fontsize=10)
    open_frame(axis)
