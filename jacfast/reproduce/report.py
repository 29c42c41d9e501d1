"""A reproduced table to look at: text, pictures and one HTML page."""

from pathlib import Path
from typing import Any

from jacfast import report as parts
from jacfast.files import write_atomically
from jacfast.plots import accuracy_figure
from jacfast.plots.style import WIDTH, inches, legend_below, panels, png, wrapped
from jacfast.reproduce.show import ACROSS, heading, kinds, lines, order, read_from, text

Pictures = dict[str, tuple[str, bytes]]  # beside the table: what it shows and a PNG, by name
PAPER, OURS = "#777777", "#0072b2"
NAMES = 2.2  # inches at most for the names of the methods


def figure(result: dict[str, Any]) -> bytes:
    """Return a PNG: per column and method our figure, and the paper's where it has one."""
    columns, rows = result["table"]["columns"], result["rows"]
    compared = any("paper" in kinds(result, i) for i in range(len(columns)))
    across = min(len(columns), ACROSS)
    figure, grid = panels(len(columns), across, 0.9 + 0.3 * len(rows), 0.4, sharey=True)
    axes = grid.flatten()
    places, names = list(range(len(rows))), [wrapped(row["name"], NAMES) for row in rows]
    beside = max(inches(line) for name in names for line in name.split("\n"))
    room = (WIDTH - beside) / across - 0.3
    for i, (axis, column) in enumerate(zip(axes, columns, strict=False)):
        paper = [(p, row["paper"][i]) for p, row in zip(places, rows, strict=True)]
        there = [(p, value) for p, value in paper if value is not None]
        if compared:
            axis.plot([v for _, v in there], [p for p, _ in there], "o", color=PAPER, label="paper")
        ours, sd = [row["ours"][i] for row in rows], [row["sd"][i] for row in rows]
        axis.errorbar(
            ours, places, xerr=sd if any(sd) else None, fmt="D", color=OURS, label="ours", capsize=3
        )
        axis.set_title(wrapped(heading(column), room), fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].set_yticks(places, names)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
    legend_below(figure, axes[0])
    return png(figure)


def curves(result: dict[str, Any]) -> dict[str, bytes]:
    """Return a PNG per curve of the table: accuracy against the size of an attack, by method."""
    found = {}
    for i, curve in enumerate(result["table"]["curves"]):
        rows = {row["name"]: row["curves"][i] for row in result["rows"]}
        attack = curve["attack"].upper()
        found[f"{curve['attack']}.png"] = png(
            accuracy_figure(curve["epsilons"], rows, attack=attack)
        )
    return found


def report(result: dict[str, Any], pictures: Pictures) -> bytes:
    """Return the HTML report of a run."""
    about = result["table"]
    sections = [
        (
            "Figures",
            parts.table(lines(result)) + parts.words(f"{order(result)}. {about['remark']}"),
        ),
        ("Picture", parts.picture(figure(result), "the paper's figures and ours, by method")),
        *(
            (f"Accuracy under {name[:-4].upper()}", parts.picture(picture, "accuracy against eps"))
            for name, picture in curves(result).items()
        ),
        *(
            (what[0].upper() + what[1:], parts.picture(picture, f"jacfast plot {name}"))
            for name, (what, picture) in pictures.items()
        ),
        (
            "Configuration",
            parts.values(about | {"read from": read_from(result), "quick": result["quick"]}),
        ),
        ("Environment", parts.values(parts.environment())),
    ]
    less = " (--quick: less training, fewer images)" if result["quick"] else ""
    return parts.page(f"{about['source']}: {about['title']}{less}", sections)


def write(result: dict[str, Any], out: Path, pictures: Pictures) -> list[str]:
    """Write text, pictures and report into `out`; return the files' names."""
    files = {"table.txt": text(result).encode(), "table.png": figure(result)} | curves(result)
    files |= {f"{name}.png": picture for name, (_, picture) in pictures.items()}
    files["report.html"] = report(result, pictures)
    for name, content in files.items():
        write_atomically(content, out / name)
    return ["result.json", *files]
