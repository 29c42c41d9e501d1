"""A report as one HTML page."""

from typing import TYPE_CHECKING

from jacfast import report as parts
from jacfast.plots import png
from jacfast.robustness import shown

if TYPE_CHECKING:
    from jacfast.robustness.result import RobustnessReport


def page(report: "RobustnessReport") -> bytes:
    """Return the page: table, picture, every sign in words, configuration, environment."""
    found = shown.figures(report)
    heading = ("sign", "of those right, %", "limit, %", "")
    rows = [
        (s.name, f"{100 * s.share:.1f}", f"{100 * s.limit:.1f}", "FOUND" if s.found else "")
        for s in report.signs
    ]
    meanings = "".join(parts.words(f"{s.name}: {s.means}") for s in report.signs)
    chosen = {name: found[name] for name in ("p", "clip", "budget", "steps", "restarts")}
    return parts.page(
        "Robustness of a classifier",
        [
            ("Attacks", parts.words(f"{shown.about(report)}.") + parts.table(shown.cells(report))),
            (
                "Accuracy against eps",
                parts.picture(png(report.figure()), "robust accuracy against eps, by attack"),
            ),
            (shown.verdict(report), parts.table([heading, *rows]) + meanings),
            ("Configuration", parts.values(chosen | {"eps": report.choices.eps})),
            ("Environment", parts.values(parts.environment())),
        ],
    )
