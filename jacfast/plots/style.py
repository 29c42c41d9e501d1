"""What all pictures share: size, colours that colour-blind readers can tell apart, PNG."""

import io
import itertools
import textwrap
from collections.abc import Iterable, Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

WIDTH = 9.0  # inches; at 100 dots per inch 900 pixels, and 10 points are 14 of them
DPI = 150
# Models in turn: red-brown and blue, then Okabe and Ito's; lines differ in their dashes, too.
COLOURS = ("#b5523b", "#2a6f97", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#000000")
DASHES = ("-", "--", "-.", ":")
# Ten classes: Tol's 'muted' scheme and its grey.
CLASSES = (
    "#88ccee", "#cc6677", "#ddcc77", "#117733", "#332288",
    "#aa4499", "#44aa99", "#999933", "#882255", "#dddddd",
)  # fmt: skip

ZERO = 1e-3  # magnitude below which derivatives are counted as zeros, unless told


def new_figure(height: float) -> Figure:
    """Return an empty figure of the common width and of `height` inches."""
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def lines(names: Iterable[str]) -> Iterator[tuple[str, dict]]:
    """Yield each name with the colour and dashes of its line."""
    for name, colour, dash in zip(names, itertools.cycle(COLOURS), itertools.cycle(DASHES)):
        yield name, {"color": colour, "linestyle": dash, "linewidth": 1.8}


def image(axis: Axes, sample: Tensor) -> None:
    """Draw a grey or colour image [1 or 3, H, W] in [0, 1]; what is outside is cut off."""
    if sample.dim() != 3 or len(sample) not in (1, 3):
        raise ValueError(f"x must hold images [N, 1 or 3, H, W]; got {list(sample.shape)} for one")
    pixels = sample.clamp(0, 1).movedim(0, -1).squeeze(-1).numpy(force=True)
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)


def tag(axis: Axes, text: str) -> None:
    """Write in the lower left corner of a picture."""
    axis.text(
        0.02,
        0.02,
        text,
        transform=axis.transAxes,
        fontsize=9,
        bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5},
    )


def open_frame(axis: Axes) -> None:
    """Leave the frame of a graph open at the top and on the right."""
    axis.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, axis: Axes) -> None:
    """Put the legend of `axis` under everything, where it covers no data."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


def wrapped(name: str, letters: int) -> str:
    """Break a name between words into lines of so many letters, to stand over a panel."""
    return textwrap.fill(name, letters, break_long_words=False)
