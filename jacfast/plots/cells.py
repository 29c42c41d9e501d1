"""The cells of the classes in a plane through an image."""

from typing import NamedTuple

import numpy
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from jacfast.checks import at_least
from jacfast.evaluation.surfaces import Surface
from jacfast.plots.colours import classes
from jacfast.plots.style import WIDTH, check_models, check_named, no_boundary, panels, wrapped

DOTS = 301  # along a side of a panel


def cells_figure(surfaces: dict[str, Surface], radii: dict[str, float]) -> Figure:
    """Draw the predicted class over a plane through an image (black dot), models side by side.

    A colour per class, named in its cells, and a thick line around the image's. The circle has the
    radius ``||r||_2`` of DeepFool: with r as the first direction, which is another for each model,
    the boundary on the right of the image crosses it as far inside as DeepFool's last step led
    beyond. In a plane of random directions the cell usually reaches much farther.

    Args:
        surfaces: `input_surface` of the logits along orthonormal directions, by model; between its
            points they are interpolated. Of labels, too, whose edges are as coarse as the points.
            White is where logits are NaN.
        radii: ``||r||_2`` of the image for each model.

    Raises:
        TypeError: something else is in their places. ValueError: a surface is not one of logits or
            labels in input space, or has no class anywhere; or a radius is missing.

    Source: Lim, figure 1.
    """
    check_named("radii", radii, object)
    radii = {  # a result's norm is a tensor
        name: at_least("radii", r.item() if isinstance(r, Tensor) else r, 0)
        for name, r in radii.items()
    }
    check_models("surfaces", surfaces, Surface)
    for name, surface in surfaces.items():
        if surface.of not in ("logits", "label") or surface.space != "input":
            raise ValueError(
                f"surfaces must hold logits or labels in input space; {name!r} has not"
            )
        if name not in radii:
            raise ValueError(f"radii must have each model's; {name!r} is missing")
    found = {name: _scores(surface) for name, surface in surfaces.items()}
    colours = classes(k for scores in found.values() for k in scores.present)
    columns = min(len(surfaces), 2)
    figure, axes = panels(len(surfaces), columns, 9 / columns + 0.2)
    for axis, (name, scores) in zip(axes.flat, found.items(), strict=False):
        _cells(axis, scores, colours, surfaces[name].steps)
        _names(axis, scores, surfaces[name].steps, radii[name])
        axis.add_patch(Circle((0, 0), radii[name], fill=False, linestyle="--", linewidth=1.5))
        axis.plot(0, 0, "o", color="black", markersize=3.5)
        title = f"{name}: ||r||₂ of DeepFool {radii[name]:.2f}"
        axis.set_title(wrapped(title, WIDTH / columns - 0.7, 11), fontsize=11)
    return figure


class _Scores(NamedTuple):
    """The classes that are predicted in a plane, and what is largest where each is."""

    present: list[int]
    values: Tensor  # [len(present), P, P]; NaN where a logit is NaN, which says no class


def _scores(surface: Surface) -> _Scores:
    values = surface.values
    known = ~values.isnan().any(dim=-1)
    if surface.of == "label":
        known = values >= 0
        values = F.one_hot(values.clamp(min=0).long()).to(values.dtype)
    present = values.argmax(dim=-1)[known].unique()
    if len(present) == 0:
        raise ValueError("surfaces must have a class somewhere; one has NaN in all of its logits")
    values = torch.where(known[..., None], values, torch.nan)
    return _Scores(present.tolist(), values[..., present].movedim(-1, 0))


def _cells(axis: Axes, scores: _Scores, colours: dict[int, str], steps: Tensor) -> None:
    """Fill each cell, and draw its edge, a thicker one around the image's."""
    end = float(steps[-1])
    fine = F.interpolate(scores.values[None], (DOTS, DOTS), mode="bilinear", align_corners=True)[0]
    along = numpy.linspace(-end, end, DOTS)
    own = int(fine[:, DOTS // 2, DOTS // 2].argmax())
    axis.set_facecolor(colours[scores.present[own]])
    axis.set(xlim=(-end, end), ylim=(-end, end), aspect="equal")
    for i, k in enumerate(scores.present):
        others = torch.cat([fine[:i], fine[i + 1 :]])
        if len(others) == 0:
            no_boundary(axis, end)
            break
        lead = (fine[i] - others.amax(dim=0)).T.numpy()  # a is the horizontal axis
        if i != own:
            axis.contourf(along, along, lead, levels=[0.0, numpy.inf], colors=[colours[k]])
        width = 1.6 if i == own else 0.5
        axis.contour(along, along, lead, levels=[0.0], colors="black", linewidths=width)
    hole = fine.isnan().any(dim=0)
    if bool(hole.any()):
        axis.contourf(along, along, hole.T.double().numpy(), levels=[0.5, 1.5], colors=["white"])
    axis.set_xlabel("first direction, units of x (L2)")
    axis.set_ylabel("second direction, units of x (L2)")


def _names(axis: Axes, scores: _Scores, steps: Tensor, radius: float) -> None:
    """Write the name of each class into its cell, outside the circle where that is in sight."""
    middle, points = len(steps) // 2, round(radius / float(steps.diff()[0])) + 2
    near = points if points < 0.8 * middle else max(2, len(steps) // 12)
    labels = torch.where(scores.values.isnan().any(dim=0), -1, scores.values.argmax(dim=0))
    for i, k in enumerate(scores.present):
        where = _inside(labels == i, near)
        if where is not None:
            axis.text(float(steps[where[0]]), float(steps[where[1]]), str(k), **NAME)


NAME: dict = {
    "ha": "center",
    "va": "center",
    "fontsize": 11,
    "bbox": {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "boxstyle": "circle"},
}


def _inside(cell: Tensor, near: int) -> tuple[int, int] | None:
    """Return the point of a cell [P, P] that is farthest from its rim, for its name.

    Not `near` the image in the middle, and none where the cell is thinner than three points.
    """
    layer = cell.float()
    depth = torch.zeros_like(layer)
    while bool(layer.any()):  # peel it layer by layer
        depth += layer
        layer = 1 - F.max_pool2d(F.pad(1 - layer, (1, 1, 1, 1), value=1.0)[None], 3, 1)[0]
    middle = len(cell) // 2
    depth[middle - near : middle + near + 1, middle - near : middle + near + 1] = 0
    deepest = int(depth.argmax())
    return divmod(deepest, len(cell)) if depth.max() > 1 else None
