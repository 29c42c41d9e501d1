"""Hessians as pictures."""

import math

import numpy
from matplotlib import colormaps
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from jacfast.checks import above_zero
from jacfast.evaluation.jacobians import jacobian_statistics
from jacfast.plots.style import ZERO, check_models, panels, wrapped


def hessian_figure(
    hessians: dict[str, Tensor], threshold: float = ZERO, step: float | None = None
) -> Figure:
    """Draw the magnitudes of the entries of Hessians, a panel per model, on one logarithmic scale.

    A colour per factor of ten above the threshold; entries below it, which count as zeros, and NaN
    are white. Where D is larger than the panel has dots, some rows and columns are left out. The
    titles give the Frobenius norm and the share of these zeros, of all entries.

    Args:
        hessians: [D, D], by model: one of `decision_hessian`.
        threshold: below which an entry counts as zero, > 0, as for `spectra_figure`.
        step: of the central differences that they are by, if they are, in units of x.

    Raises:
        TypeError: threshold or step is no number. ValueError: there is no model, a Hessian is not
            [D, D], or threshold or step is not positive.

    Source: Yu, Liu, Wang & Chen, figure 8 and section 4.3.
    """
    check_models("hessians", hessians, Tensor)
    for name, h in hessians.items():
        if h.dim() != 2 or h.shape[0] != h.shape[1]:
            raise ValueError(f"hessians must be [D, D]; {name!r} has {list(h.shape)}")
    if step is not None:
        above_zero("step", step)
    statistics = {n: jacobian_statistics(h[None], threshold) for n, h in hessians.items()}
    sizes = {name: h.detach().double().abs().cpu() for name, h in hessians.items()}
    norm = _decades(threshold, max(float(s.nan_to_num(0.0, 0.0).max()) for s in sizes.values()))
    shades = colormaps["magma_r"](numpy.linspace(0.2, 1, norm.Ncmap))  # all apart from white
    colours = ListedColormap(shades).with_extremes(under="white", bad="white")
    figure, axes = panels(len(hessians), min(len(hessians), 2), 4.2)
    figure.set_layout_engine("compressed")  # the panels are square: no gaps between them
    for axis, (name, size) in zip(axes.flat, sizes.items(), strict=False):
        picture = axis.imshow(size.numpy(), cmap=colours, norm=norm, interpolation="nearest")
        zeros, _, frobenius = (float(value[0]) for value in statistics[name])
        words = f"Frobenius norm {frobenius:.3g}\n{100 * zeros:.1f}% below {threshold:g}"
        axis.set_title(wrapped(f"{name}: {words}", 3.0), fontsize=10)
        axis.set_xlabel("entry of x")
    axes[0, 0].set_ylabel("entry of x")
    label = "|entry of the Hessian of S|, logit / (unit of x)²"
    by = f"\n(by differences of ±{step:g})" if step else ""
    bar = figure.colorbar(picture, ax=axes, label=label + by, shrink=0.9)
    bar.ax.set_yticks(norm.boundaries, [f"{edge:g}" for edge in norm.boundaries])
    return figure


def _decades(low: float, high: float) -> BoundaryNorm:
    """Return the scale from low, in factors of ten, to high or beyond."""
    count = max(1, math.ceil(math.log10(high / low) - 1e-9)) if high > low else 1
    return BoundaryNorm([low * 10**i for i in range(count + 1)], count)
