"""The cells of the classes in a plane through an image."""

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from jacfast.evaluation.surfaces import Surface
from jacfast.plots.style import CLASSES, new_figure


def cells_figure(surfaces: dict[str, Surface], radii: dict[str, float]) -> Figure:
    """Draw the predicted class over a plane through an image (black dot), models side by side.

    A colour per class, named in its cells; the circle has the radius ``||r||_2`` of DeepFool. In
    a plane of random directions the cell usually reaches far beyond it: the nearest boundary lies
    in a direction of its own.

    Args:
        surfaces: `input_surface` of the labels along orthonormal directions, by model.
        radii: ``||r||_2`` of the image for each model.

    Raises:
        ValueError: a surface is not one of labels in input space, or a radius is missing.

    Source: Lim, figure 1.
    """
    for name, surface in surfaces.items():
        if (surface.of, surface.space) != ("label", "input"):
            raise ValueError(f"surfaces must hold labels in input space; {name!r} does not")
        if name not in radii:
            raise ValueError(f"radii must have each model's; {name!r} is missing")
    if not surfaces:
        raise ValueError("surfaces must hold one model at least; got none")
    columns = min(len(surfaces), 2)
    rows = -(-len(surfaces) // columns)
    figure = new_figure((9 / columns + 0.2) * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(surfaces) :]:
        axis.set_axis_off()
    for axis, (name, surface) in zip(axes.flat, surfaces.items(), strict=False):
        _cells(axis, surface)
        axis.add_patch(Circle((0, 0), radii[name], fill=False, color="black", linewidth=1.5))
        axis.plot(0, 0, "o", color="black", markersize=3.5)
        axis.set_title(f"{name}: ||r||₂ of DeepFool {radii[name]:.2f}", fontsize=11)
    return figure


def _cells(axis: Axes, surface: Surface) -> None:
    labels = surface.values.long()
    present = labels.unique()
    end = float(surface.steps[-1])
    half = end / (len(surface.steps) - 1)
    box = (-end - half, end + half, -end - half, end + half)
    colours = ListedColormap([CLASSES[int(k) % len(CLASSES)] for k in present])
    index = torch.searchsorted(present, labels).T.numpy()
    axis.imshow(index, origin="lower", extent=box, cmap=colours, vmin=-0.5, vmax=len(present) - 0.5)
    for k in present.tolist():
        where = _inside(labels == k)
        if where is not None:
            a, b = (float(surface.steps[i]) for i in where)
            axis.text(a, b, str(k), **NAME)
    axis.set_xlabel("first direction, units of x (L2)")
    axis.set_ylabel("second direction, units of x (L2)")


NAME: dict = {
    "ha": "center",
    "va": "center",
    "fontsize": 11,
    "bbox": {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "boxstyle": "circle"},
}


def _inside(cell: Tensor) -> tuple[int, int] | None:
    """Return the point of a cell [P, P] that is farthest from its rim, for its name.

    Not near the image in the middle, and none where the cell is thinner than three points.
    """
    depth, layer = torch.zeros(cell.shape), cell.float()
    while bool(layer.any()):  # peel it layer by layer
        depth += layer
        layer = 1 - F.max_pool2d(F.pad(1 - layer, (1, 1, 1, 1), value=1.0)[None], 3, 1)[0]
    middle, near = len(cell) // 2, max(2, len(cell) // 12)
    depth[middle - near : middle + near + 1, middle - near : middle + near + 1] = 0
    deepest = int(depth.argmax())
    return divmod(deepest, len(cell)) if depth.max() > 1 else None
