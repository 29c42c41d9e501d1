"""Gradients as pictures."""

from matplotlib.figure import Figure
from torch import Tensor

from jacfast.plots.style import WIDTH, check_models, image, new_figure, tag, wrapped


def map_figure(x: Tensor, maps: dict[str, Tensor]) -> Figure:
    """Draw images and, beside each, its gradient for one or more models.

    Colour channels are averaged. Each map has a scale of its own, from minus to plus the largest
    magnitude that is left, so that its pattern shows however small it is; the 2-norm of the
    gradient is written on it.

    Args:
        x: [N, 1 or 3, H, W] in [0, 1], one row of the figure each.
        maps: gradients in the shape of x by name, of `decision_gradient`, say.

    Raises:
        TypeError: something is no tensor. ValueError: a map has another shape than x, there is
            none, or x does not hold images.

    Source: Yu, Liu, Wang & Chen, figures 8, 10, 15.
    """
    check_models("maps", maps, Tensor)
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor; got {type(x).__name__}")
    for name, map_ in maps.items():
        if map_.shape != x.shape:
            raise ValueError(
                f"maps must have the shape of x, {list(x.shape)}; {name!r} has {list(map_.shape)}"
            )
    side = min(9 / (len(maps) + 1), 1.9)
    figure = new_figure(side * len(x) + 0.7)
    axes = figure.subplots(len(x), len(maps) + 1, squeeze=False)
    for axis, title in zip(axes[0], ["image", *maps], strict=True):
        axis.set_title(wrapped(title, 0.8 * WIDTH / len(axes[0]) - 0.2, 11), fontsize=11)
    for i, row in enumerate(axes):
        image(row[0], x[i])
        for axis, map_ in zip(row[1:], maps.values(), strict=True):
            pixels = map_[i].mean(dim=0)
            limit = float(pixels.abs().max()) or 1.0
            drawn = axis.imshow(pixels.numpy(force=True), cmap="RdBu_r", vmin=-limit, vmax=limit)
            tag(axis, f"2-norm {float(map_[i].norm()):.3g}")
        for axis in row:
            axis.set_axis_off()
    bar = figure.colorbar(drawn, ax=axes[:, 1:], shrink=0.6, label="dS / d pixel")
    bar.set_ticks([-limit, 0, limit], labels=["- largest", "0", "+ largest"])
    return figure
