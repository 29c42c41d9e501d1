"""What all pictures share: size, frames, words that stay where they belong, PNG."""

import io
import textwrap
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image
from torch import Tensor

WIDTH = 9.0  # inches; at 100 dots per inch 900 pixels, and 10 points are 14 of them
DPI = 150

ZERO = 1e-3  # magnitude below which derivatives are counted as zeros, unless told


def check_named(name: str, given: object, kind: type) -> None:
    """Check what is drawn: something of this kind for each name."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{name} must be a dict, by the names of models; got {type(given).__name__}"
        )
    for key, value in given.items():
        if not isinstance(value, kind):
            raise TypeError(
                f"{name} must have a {kind.__name__} for each name; {key!r} has a "
                f"{type(value).__name__}"
            )


def check_models(name: str, given: Mapping, kind: type) -> None:
    """Check the same, of one model at least."""
    check_named(name, given, kind)
    if not given:
        raise ValueError(f"{name} must hold one model at least; got none")


def new_figure(height: float) -> Figure:
    """Return an empty figure of the common width and of `height` inches."""
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def panels(
    count: int, columns: int, height: float, beside: float = 0.0, **shared: Any
) -> tuple[Figure, Any]:
    """Return a figure of panels, so many in a row of this height, and an array [rows, columns].

    What the last row lacks is empty; `beside` is the height of what is beside the rows.
    """
    rows = -(-count // columns)
    figure = new_figure(rows * height + beside)
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, axes


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, with 256 colours where it has no images, whose shades need more."""
    buffer = io.BytesIO()
    figure.draw_without_rendering()  # square panels find their places in a second pass
    figure.savefig(buffer, format="png")
    images = [image for axis in figure.axes for image in axis.images]
    if all(isinstance(image.norm, BoundaryNorm) for image in images):  # of a few colours
        picture = Image.open(buffer).convert("RGB")
        few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        few.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def image(axis: Axes, sample: Tensor) -> None:
    """Draw a grey or colour image [1 or 3, H, W] in [0, 1]; what is outside is cut off."""
    if sample.dim() != 3 or len(sample) not in (1, 3):
        raise ValueError(f"x must hold images [N, 1 or 3, H, W]; got {list(sample.shape)} for one")
    pixels = sample.clamp(0, 1).movedim(0, -1).squeeze(-1).numpy(force=True)
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)


def tag(axis: Axes, text: str) -> None:
    """Write in the lower left corner of a picture; in relief in the upper one, which is free."""
    box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5}
    style: dict = {"transform": axis.transAxes, "fontsize": 9, "bbox": box, "zorder": 10}
    if axis.name == "3d":
        axis.text2D(0.02, 0.98, text, va="top", **style)  # type: ignore[attr-defined]
    else:
        axis.text(0.03, 0.03, text, **style)


def no_boundary(axis: Axes, end: float) -> None:
    """Say in a panel that there is no boundary."""
    tag(axis, f"no boundary\nwithin ±{end:.3g}")


def open_frame(axis: Axes) -> None:
    """Leave the frame of a graph open at the top and on the right."""
    axis.spines[["top", "right"]].set_visible(False)


def label_of(name: str) -> str:
    """Return a name as a label: matplotlib has none in a legend that is empty or begins with _."""
    return name if name and not name.startswith("_") else f" {name}"


def legend_below(figure: Figure, axis: Axes) -> None:
    """Put the legend of `axis` under everything, where it covers no data, in 3 columns at most.

    The figure has room for two lines of it, and grows by those that there are beyond.
    """
    handles, labels = axis.get_legend_handles_labels()
    room = {columns: WIDTH / columns - 0.7 for columns in (3, 2, 1)}  # beside the lines
    widest = max(map(inches, labels))
    columns = next((columns for columns in room if widest <= room[columns]), 1)
    short = [wrapped(label, room[columns]) for label in labels]
    lines, rows = [label.count("\n") + 1 for label in short], -(-len(short) // columns)
    most = max(sum(lines[i : i + rows]) for i in range(0, len(lines), rows))  # column by column
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, most - 2))
    figure.legend(handles, short, loc="outside lower center", ncols=columns, frameon=False)


def wrapped(text: str, width: float, size: float = 10) -> str:
    """Break each line of a text into lines of at most `width` inches: in a word, if it must be."""
    return "\n".join(_wrapped(line, width, size) for line in text.split("\n"))


def _wrapped(line: str, width: float, size: float) -> str:
    parts = [line]
    for letters in range(len(line), 0, -1):
        if all(inches(part, size) <= width for part in parts):
            break
        parts = textwrap.wrap(line, letters)
    return "\n".join(parts)


def inches(text: str, size: float = 10) -> float:
    """Return how long a line is, in a font of `size` points."""
    font = FontProperties(size=size)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72
