"""A report as a table of text or Markdown, and its figures by their names."""

import math
import textwrap
from typing import TYPE_CHECKING, Any

from torch import Tensor

from jacfast.attacks.box import words

if TYPE_CHECKING:
    from jacfast.robustness.result import RobustnessReport

WIDTH = 100


def figures(report: "RobustnessReport") -> dict[str, Any]:
    """Return all figures; distances are those of samples that are classified correctly."""
    attacks = {}
    for name, far in report.distances.items():
        own = far[report.right]
        whole = name != "PGD"  # which knows no distances but its sizes
        attacks[name] = {
            "median distance": _median(own) if whole else None,
            "mean distance": _mean(own) if whole else None,
            "not found": int(own.isinf().sum()),
            "robust accuracy": {
                str(eps): report.robust_accuracy(eps, name) for eps in report.choices.eps
            },
        }
    c = report.choices
    return {
        "p": c.p if math.isfinite(c.p) else "inf",
        "clip": None if c.clip is None else words(c.clip),
        "budget": c.budget,
        "steps": c.steps,
        "restarts": c.restarts,
        "samples": len(report.right),
        "accuracy": report.accuracy,
        "rho_adv": report.rho_adv,
        "attacks": attacks,
        "signs": {
            sign.name: {"share": sign.share, "limit": sign.limit, "found": sign.found}
            for sign in report.signs
        },
    }


def cells(report: "RobustnessReport") -> list[tuple[str, ...]]:
    """Return the table, a column for each attack; the first row is the heading."""
    attacks = figures(report)["attacks"]
    rows = [("", *attacks)]
    for key in ("median distance", "mean distance"):
        rows.append((key, *(_length(own[key]) for own in attacks.values())))
    rows.append(("nothing found", *(str(own["not found"]) for own in attacks.values())))
    for eps in report.choices.eps:
        shares = (own["robust accuracy"][str(eps)] for own in attacks.values())
        rows.append((f"robust at eps {eps:g}, %", *(f"{100 * s:.2f}" for s in shares)))
    return rows


def about(report: "RobustnessReport") -> str:
    """Return what the table is of."""
    c = report.choices
    starts = "one start" if c.restarts == 1 else f"{c.restarts} starts"
    box = "without a box" if c.clip is None else f"in the box {words(c.clip)}"
    return (
        f"{len(report.right)} samples, {at(report)}, rho_adv {report.rho_adv:.4f}; {c.p:g}-norm, "
        f"{box}; minimal norm: {c.budget} passes, PGD: {starts} of {c.steps} steps. "
        "Distances are those of the samples that are classified correctly, the mean that of those "
        "found; robust at eps: the share of all that are classified correctly and farther than eps"
    )


def at(report: "RobustnessReport") -> str:
    return f"accuracy {100 * report.accuracy:.2f}%"


def verdict(report: "RobustnessReport") -> str:
    """Return in a line how many signs were found."""
    looked, found = len(report.signs), len(report.findings)
    return f"Signs of masked gradients: {found or 'none'} of {looked} found"


def text(report: "RobustnessReport") -> str:
    """Return what it is of, the table and the signs found, at most 100 columns wide."""
    rows = cells(report)
    first = max(len(row[0]) for row in rows)
    widths = [max(len(row[i]) for row in rows) for i in range(1, len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(first), *(c.rjust(w) for c, w in zip(row[1:], widths, strict=True))]
        )
        for row in rows
    ]
    found = [
        line
        for sign in report.findings
        for line in textwrap.wrap(f"- {sign}", WIDTH, subsequent_indent="  ")
    ]
    whole = [*textwrap.wrap(about(report), WIDTH), "", lines[0], "-" * len(lines[0]), *lines[1:]]
    return "\n".join([*whole, "", verdict(report), *found])


def markdown(report: "RobustnessReport") -> str:
    """Return the same as Markdown, with every sign."""
    head, *rows = cells(report)
    rule = "|---" + "|---:" * (len(head) - 1) + "|"
    table = [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]
    listed = [f"- {sign}" for sign in report.signs]
    return "\n".join([f"{about(report)}.", "", *table, "", f"{verdict(report)}:", "", *listed])


def _length(value: float | None) -> str:
    return "" if value is None else "unknown" if math.isinf(value) else f"{value:.4g}"


def _median(far: Tensor) -> float:
    return float(far.sort().values[(len(far) - 1) // 2])


def _mean(far: Tensor) -> float:
    """Return the mean of the distances that are known; infinite if none is."""
    known = far[far.isfinite()]
    return float(known.mean()) if len(known) else math.inf
