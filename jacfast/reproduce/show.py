"""A reproduced table to look at: the paper's figures, ours, and the order of the methods."""

import itertools
from pathlib import Path
from typing import Any

from jacfast import report as parts
from jacfast.files import write_atomically
from jacfast.plots import accuracy_figure
from jacfast.plots.style import legend_below, new_figure, png

Pictures = dict[str, tuple[str, bytes]]  # beside the table: what it shows and a PNG, by name
PAPER, OURS = "#777777", "#0072b2"
ACROSS = 4  # panels side by side
ATTACKS = {"bim": "BIM", "fgsm": "FGSM", "margin": "C&W"}  # as the papers call them
KINDS = ("paper", "ours", "deviation")
TITLES = {
    "accuracy": "accuracy, %",
    "rho_adv": "rho_adv x 100",
    "norm_clean": "mean ||J||_F at images",
    "norm_perturbed": "mean ||J||_F at DeepFool images",
    "gradient_norm": "mean ||dS/dx||",
    "hessian_norm": "mean ||H||_F of S",
    "auc": "mean AUC",
    "bound_inner": "proposition 4 x 100",
    "bound_frobenius": "proposition 3 x 100",
    "bound_nearest": "corollary 2 x 100",
    "mean_value": "mean value (eq. 9), % of bound",
    "curvature": "curvature (eq. 13), % of bound",
}
FINE = ("norm_clean", "norm_perturbed", "gradient_norm", "hessian_norm", "auc")  # no percentages
NUMBERED = {
    "auc": "AUC of class {}",
    "gradient_zeros": "near zero in dS/dx, %",
    "hessian_zeros": "near zero in eigenvalues of H, %",
}


def heading(column: str) -> str:
    """Return what a column holds, and its unit."""
    if column in TITLES:
        return TITLES[column]
    name, size = column.split(" ", 1)
    if name in NUMBERED:
        return NUMBERED[name].format(size)
    if size == "own":
        return f"{ATTACKS[name]} of its eps, %"
    eps, *ref = size.split()
    return f"{ATTACKS[name]} {float(eps):.3g}{' eps_ref' if ref else ''}, %"


def lines(result: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the table, the first row being the heading."""
    columns = result["table"]["columns"]
    first = ["", *(f"{heading(c)}: {kind}" for c in columns for kind in KINDS)]
    several = len(result["table"]["seeds"]) > 1
    found = [first]
    for row in result["rows"]:
        cells = [row["name"]]
        for column, *figures in zip(columns, row["paper"], row["ours"], row["sd"], strict=True):
            (paper, ours, sd), digits = figures, 4 if column.split()[0] in FINE else 2
            spread = f" ± {sd:.{digits}f}" if several else ""
            deviation = "" if paper is None else f"{ours - paper:+.{digits}f}"
            cells += [
                "" if paper is None else f"{paper:g}",
                f"{ours:.{digits}f}{spread}",
                deviation,
            ]
        found.append(cells)
    return found


def order(result: dict[str, Any]) -> str:
    """Say whether the methods come in the paper's order, above all in the column that counts."""
    columns, rank = result["table"]["columns"], result["table"]["rank"]
    swapped, close, pairs = _pairs(result, columns.index(rank))
    if not pairs:
        return f"The paper has no order of the methods by {rank}"
    said = f"Order of the methods by {rank}: "
    if swapped:
        said += f"{len(swapped)} of {pairs} pairs are the other way round: {'; '.join(swapped)}"
    else:
        said += "as in the paper"
    if close:
        said += f"; within one standard deviation: {'; '.join(close)}"
    others = [_pairs(result, i) for i, name in enumerate(columns) if name not in (rank, "accuracy")]
    total = sum(pairs for *_, pairs in others)
    if total:
        wrong = sum(len(swapped) for swapped, *_ in others)
        said += f". In the other columns but accuracy: {wrong} of {total} pairs the other way round"
    return said


def _pairs(result: dict[str, Any], column: int) -> tuple[list[str], list[str], int]:
    """Compare the order of the methods in a column with the paper's.

    Returns:
        The pairs that are the other way round, those that differ by less than one standard
        deviation of the seeds, and how many pairs the paper has an order of.
    """
    rows = [row for row in result["rows"] if row["paper"][column] is not None]
    swapped, close, pairs = [], [], 0
    for low, high in itertools.permutations(rows, 2):
        if low["paper"][column] < high["paper"][column]:
            pairs += 1
            gain = high["ours"][column] - low["ours"][column]
            if abs(gain) < max(low["sd"][column], high["sd"][column]):
                close.append(f"{low['name']} and {high['name']}")
            elif gain < 0:
                swapped.append(f"{low['name']} before {high['name']}")
    return swapped, close, pairs


def text(result: dict[str, Any]) -> str:
    """Return the table, the order and the remark for a terminal."""
    about, cells = result["table"], lines(result)
    kind = ", quick" if result["quick"] else ""
    head = f"{about['source']}: {about['title']}; {result['data']}{kind}"
    columns = range(0, len(about["columns"]), ACROSS)
    blocks = [_block(about["columns"][i : i + ACROSS], cells, 1 + len(KINDS) * i) for i in columns]
    return "\n\n".join([head, *blocks, order(result), about["remark"]]).rstrip()


def _block(columns: list[str], cells: list[list[str]], first: int) -> str:
    """Return the names and some columns, whose cells begin at `first`, under their headings."""
    last = first + len(KINDS) * len(columns)
    rows = [["", *KINDS * len(columns)], *([row[0], *row[first:last]] for row in cells[1:])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    top = " " * widths[0]
    for i, column in enumerate(columns):
        start = 1 + len(KINDS) * i
        under = sum(widths[start : start + len(KINDS)]) + 2 * (len(KINDS) - 1)
        widths[start] += max(0, len(heading(column)) - under)
        top += "  " + heading(column).rjust(under)
    out = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([top, out[0], "-" * len(out[0]), *out[1:]])


def figure(result: dict[str, Any]) -> bytes:
    """Return a PNG: per column and method the paper's figure and ours."""
    columns, rows = result["table"]["columns"], result["rows"]
    lines = -(-len(columns) // ACROSS)
    figure = new_figure(lines * (0.9 + 0.3 * len(rows)) + 0.4)
    across = min(len(columns), ACROSS)
    axes = figure.subplots(lines, across, sharey=True, squeeze=False).flatten()
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    places = list(range(len(rows)))
    for i, (axis, column) in enumerate(zip(axes, columns, strict=False)):
        paper = [(p, row["paper"][i]) for p, row in zip(places, rows, strict=True)]
        there = [(p, value) for p, value in paper if value is not None]
        axis.plot([v for _, v in there], [p for p, _ in there], "o", color=PAPER, label="paper")
        ours, sd = [row["ours"][i] for row in rows], [row["sd"][i] for row in rows]
        axis.errorbar(
            ours, places, xerr=sd if any(sd) else None, fmt="D", color=OURS, label="ours", capsize=3
        )
        axis.set_title(heading(column), fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].set_yticks(places, [row["name"] for row in rows])
    axes[0].invert_yaxis()
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
            parts.values(about | {"read from": result["data"], "quick": result["quick"]}),
        ),
        ("Environment", parts.values(parts.environment())),
    ]
    return parts.page(f"{about['source']}: {about['title']}", sections)


def write(result: dict[str, Any], out: Path, pictures: Pictures) -> list[str]:
    """Write text, pictures and report into `out`; return the files' names."""
    files = {"table.txt": text(result).encode(), "table.png": figure(result)} | curves(result)
    files |= {f"{name}.png": picture for name, (_, picture) in pictures.items()}
    files["report.html"] = report(result, pictures)
    for name, content in files.items():
        write_atomically(content, out / name)
    return ["result.json", *files]
