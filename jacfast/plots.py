"""Pictures, drawn with matplotlib and returned as PNG."""

import io

import torch
from torch import Tensor

from jacfast.attacks import DeepFoolResult

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
except ImportError as error:
    raise ImportError("jacfast.plots needs matplotlib: run pip install 'jacfast[demo]'") from error

COLUMNS = (
    "original",
    "perturbed\nbefore",
    "perturbed\nafter",
    "difference before,\n||r|| / ||x||",
    "difference after,\n||r|| / ||x||",
)
BEFORE, AFTER = "#b5523b", "#2a6f97"


def hardening_figure(
    x: Tensor, y: Tensor, before: DeepFoolResult, after: DeepFoolResult, rows: int = 6
) -> bytes:
    """Draw what DeepFool needs to fool a classifier before and after hardening.

    Left, one image per row: the original, the perturbed images, and the perturbations r on one
    colour scale, with ||r||_2 / ||x||_2 above each. Right: the distribution of ||r||_2 / ||x||_2
    over all images.

    Args:
        x: [N, 1 or 3, H, W] in [0, 1]; y: [N] true labels.
        before, after: `deepfool` of the two models at x.
        rows: how many images to show: those that both models classify correctly and DeepFool fooled
            in both, one of each class first.

    Returns:
        A PNG.
    """
    ratios = [_ratios(result, x) for result in (before, after)]
    shown = _choose(y, before, after, rows)
    height = 1.5 * max(len(shown), 3) + 0.9
    figure = Figure(figsize=(13, height), dpi=110, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.75, 1))  # type: ignore[misc]
    _images(left, x, shown, (before, after), ratios)
    _distribution(right.subplots(), ratios)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _ratios(result: DeepFoolResult, x: Tensor) -> Tensor:
    return result.norm / x.flatten(1).norm(dim=1)


def _choose(y: Tensor, before: DeepFoolResult, after: DeepFoolResult, rows: int) -> list[int]:
    right = (before.before == y) & (after.before == y) & before.success & after.success
    usable = right.nonzero().flatten().tolist()
    first: dict[int, int] = {}
    for i in usable:
        first.setdefault(int(y[i]), i)
    one_each = [first[k] for k in sorted(first)]
    return (one_each + [i for i in usable if i not in one_each])[:rows]


def _images(
    left: SubFigure,
    x: Tensor,
    shown: list[int],
    results: tuple[DeepFoolResult, DeepFoolResult],
    ratios: list[Tensor],
) -> None:
    axes = left.subplots(max(len(shown), 1), len(COLUMNS), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(title, fontsize=10)
    if not shown:
        left.suptitle("no image is classified correctly and fooled by both models")
        return
    limit = max(float(result.r[shown].abs().max()) for result in results)
    for row, i in zip(axes, shown, strict=True):
        _image(row[0], x[i])
        for j, (result, ratio) in enumerate(zip(results, ratios, strict=True)):
            _image(row[1 + j], result.adversarial[i])
            row[1 + j].text(0.02, 0.02, f"read as {int(result.label[i])}", **_tag(row[1 + j]))
            r = result.r[i].mean(dim=0).numpy(force=True)  # over the channels
            drawn = row[3 + j].imshow(r, cmap="RdBu_r", vmin=-limit, vmax=limit)
            row[3 + j].text(0.02, 0.02, f"{float(ratio[i]):.2f}", **_tag(row[3 + j]))
    left.colorbar(drawn, ax=axes[:, 3:], shrink=0.6, label="change of a pixel")


def _image(axis: Axes, image: Tensor) -> None:
    pixels = image.clamp(0, 1).movedim(0, -1).squeeze(-1).numpy(force=True)
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)


def _tag(axis: Axes) -> dict:
    return {
        "transform": axis.transAxes,
        "fontsize": 8,
        "bbox": {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5},
    }


def _distribution(axis: Axes, ratios: list[Tensor]) -> None:
    top = float(torch.cat(ratios).quantile(0.995))
    for ratio, colour, name in zip(ratios, (BEFORE, AFTER), ("before", "after"), strict=True):
        mean = float(ratio.mean())
        axis.hist(
            ratio.clamp(max=top).numpy(force=True),
            bins=40,
            range=(0, top),
            color=colour,
            alpha=0.55,
            label=f"{name}: mean (rho_adv) {mean:.3f}",
        )
        axis.axvline(mean, color=colour, linewidth=1.5)
    axis.set_xlabel("||r||₂ / ||x||₂ of DeepFool (last bar: all beyond)")
    axis.set_ylabel("images")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
