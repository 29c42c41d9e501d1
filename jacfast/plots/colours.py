"""A colour for each method and class: the same in every picture, and in one picture no two alike.

Colour-blind readers can tell those apart that are written here; lines differ in dashes, too.
"""

import colorsys
import itertools
from collections.abc import Iterable, Iterator

from matplotlib.colors import to_hex

# Models in turn: red-brown and blue, then of Okabe and Ito's and Tol's schemes.
COLOURS = (
    "#b5523b", "#2a6f97", "#009e73", "#e69f00", "#cc79a7", "#56b4e9",
    "#000000", "#332288", "#999933", "#771155", "#bbbbbb", "#661100",
)  # fmt: skip
DASHES = ("-", "--", "-.", ":")
# The methods of the tables that are reproduced, by their names there; with adversarial training
# a penalty is dashed.
METHODS = {
    "no defence": ("#b5523b", "-"),
    "no defence, trained as long": ("#bbbbbb", "-."),
    "natural": ("#b5523b", "-"),
    "vanilla": ("#b5523b", "-"),
    "adversarial training": ("#2a6f97", "--"),
    "adversarial training (AT)": ("#2a6f97", "--"),
    "adversarial training (C&W)": ("#2a6f97", "--"),
    "min-max training": ("#009e73", "--"),
    "Deep Defense": ("#009e73", "-."),
    "input gradient": ("#999933", "-"),
    "input gradient + AT": ("#e6b800", "--"),
    "gradient of the cross-entropy": ("#999933", "-"),
    "cross-Lipschitz": ("#882255", "-"),
    "cross-Lipschitz + AT": ("#cc79a7", "--"),
    "gradient of the decision function": ("#332288", "-"),
    "gradient of the decision function + adversarial training": ("#aa99dd", "--"),
    "Jacobian": ("#000000", "-"),
    "Jacobian + AT": ("#56b4e9", "--"),
    "Jacobian of L": ("#000000", "-"),
    "Jacobian of L + AT": ("#56b4e9", "--"),
    "Jacobian of L - 1": ("#009e73", "-"),
    "Jacobian of L - 1 + AT": ("#bbcc33", "--"),
    "Jacobian of L - 1, L fixed": ("#e69f00", "-"),
    "Jacobian of L - 1, L fixed, + AT": ("#771155", "--"),
    "Jacobian of L - 2": ("#5b2d8e", "-"),
    "Jacobian of L - 2 + AT": ("#ffaabb", "--"),
}
# Classes 0 to 9: Tol's 'muted' scheme and its grey.
CLASSES = (
    "#88ccee", "#cc6677", "#ddcc77", "#117733", "#332288",
    "#aa4499", "#44aa99", "#999933", "#882255", "#dddddd",
)  # fmt: skip


def lines(names: Iterable[str]) -> Iterator[tuple[str, dict]]:
    """Yield each name with the colour and dashes of its line.

    Methods of `METHODS` have their own, the others the next that is free in this picture; so has
    the second of two names of one method ("natural" and "vanilla").
    """
    names, own = list(names), dict[str, tuple[str, str]]()
    for name in names:
        if name in METHODS and METHODS[name][0] not in {colour for colour, _ in own.values()}:
            own[name] = METHODS[name]
    taken = {colour for colour, _ in own.values()}
    free = (
        (colour, dash)
        for colour, dash in zip(_endless(COLOURS), itertools.cycle(DASHES), strict=False)
        if colour not in taken
    )
    for name in names:
        colour, dash = own[name] if name in own else next(free)
        yield name, {"color": colour, "linestyle": dash, "linewidth": 1.8}


def classes(present: Iterable[int]) -> dict[int, str]:
    """Return the colour of each class; those from 10 on have the next that is free."""
    further = itertools.islice(_endless(CLASSES), len(CLASSES), None)
    return {k: CLASSES[k] if k < len(CLASSES) else next(further) for k in sorted(set(present))}


def _endless(first: tuple[str, ...]) -> Iterator[str]:
    """Yield the colours, and then hues at the golden ratio, of which no two are alike."""
    yield from first
    for i in itertools.count():
        yield to_hex(colorsys.hls_to_rgb(0.618034 * i % 1, (0.35, 0.55, 0.75)[i % 3], 0.65))
