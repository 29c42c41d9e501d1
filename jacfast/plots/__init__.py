"""Pictures, drawn with matplotlib from what `jacfast.evaluation` and `jacfast.attacks` measured.

Every function returns a `matplotlib.figure.Figure`, made without pyplot; `png` turns it into bytes.
"""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("jacfast.plots needs matplotlib: run pip install 'jacfast[demo]'") from error

from jacfast.plots.cells import cells_figure
from jacfast.plots.curves import accuracy_figure, roc_figure
from jacfast.plots.hardening import hardening_figure
from jacfast.plots.hessians import hessian_figure
from jacfast.plots.lines import line_figure
from jacfast.plots.maps import map_figure
from jacfast.plots.perturbations import perturbation_figure
from jacfast.plots.robustness import robustness_figure
from jacfast.plots.spectra import spectra_figure
from jacfast.plots.style import png
from jacfast.plots.surfaces import contour_figure, relief_figure

__all__ = [
    "accuracy_figure",
    "cells_figure",
    "contour_figure",
    "hardening_figure",
    "hessian_figure",
    "line_figure",
    "map_figure",
    "perturbation_figure",
    "png",
    "relief_figure",
    "robustness_figure",
    "roc_figure",
    "spectra_figure",
]


def __dir__() -> list[str]:
    return sorted(__all__)
