"""A reproduced table in words: the paper's figures, ours, and the order of the methods."""

import itertools
import math
from typing import Any, NamedTuple

ACROSS = 4  # columns side by side
ATTACKS = {"bim": "BIM", "fgsm": "FGSM", "margin": "C&W"}  # as the papers call them
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
    "mean_value": "mean value (eq. 9), % of its bound",
    "curvature": "curvature (eq. 13), % of its bound",
}
FINE = ("norm_clean", "norm_perturbed", "gradient_norm", "hessian_norm", "auc")  # no percentages
NUMBERED = {
    "auc": "AUC of class {}",
    "gradient_zeros": "near zero in dS/dx, %",
    "hessian_zeros": "near zero in eigenvalues of H, %",
}


def read_from(result: dict[str, Any]) -> str:
    """Return the data of a run and, if its table asks for bfloat16, what the products were in."""
    precision = result.get("precision")
    return f"{result['data']}, products in {precision}" if precision else result["data"]


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


def kinds(result: dict[str, Any], column: int) -> tuple[str, ...]:
    """Return the figures that a column has: only ours, where the paper has none."""
    there = any(row["paper"][column] is not None for row in result["rows"])
    return ("paper", "ours", "deviation") if there else ("ours",)


def lines(result: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the table, the first row being the heading."""
    columns = list(enumerate(result["table"]["columns"]))
    first = [f"{heading(name)}: {kind}" for i, name in columns for kind in kinds(result, i)]
    found = [["", *first]]
    for row in result["rows"]:
        cells = (_cells(result, row, i) for i, _ in columns)
        found.append([row["name"], *itertools.chain.from_iterable(cells)])
    return found


def _cells(result: dict[str, Any], row: dict[str, Any], column: int) -> list[str]:
    """Return what a row says in a column, a cell for each of its kinds."""
    digits = 4 if result["table"]["columns"][column].split()[0] in FINE else 2
    paper, ours, sd = (row[name][column] for name in ("paper", "ours", "sd"))
    spread = f" ± {sd:.{digits}f}" if len(result["table"]["seeds"]) > 1 else ""
    said = f"{ours:.{digits}f}{spread}"
    if kinds(result, column) == ("ours",):
        return [said]
    return ["", said, ""] if paper is None else [f"{paper:g}", said, f"{ours - paper:+.{digits}f}"]


def order(result: dict[str, Any]) -> str:
    """Say whether the methods come in the paper's order, above all in the column that counts."""
    columns, rank = result["table"]["columns"], result["table"]["rank"]
    found = _pairs(result, columns.index(rank))
    if not found.total:
        return f"The paper has no order of the methods by {rank}{_chosen(result)}"
    said = f"Order of the methods by {rank}: "
    if found.swapped:
        count = f"{len(found.swapped)} of {found.total} pairs"
        said += f"{count} are the other way round: {'; '.join(found.swapped)}"
    elif found.undecided < found.total:
        said += "as in the paper"
    else:
        said += "no pair is decided"
    for words, names in (
        ("within one standard deviation", found.close),
        ("equal", found.equal),
        ("not comparable", found.unknown),
    ):
        if names:
            said += f"; {words}: {'; '.join(names)}"
    others = [_pairs(result, i) for i, name in enumerate(columns) if name not in (rank, "accuracy")]
    total = sum(pairs.total for pairs in others)
    if total:
        wrong = sum(len(pairs.swapped) for pairs in others)
        said += f". In the other columns but accuracy: {wrong} of {total} pairs the other way round"
        if undecided := sum(pairs.undecided for pairs in others):
            said += f", {undecided} undecided"
    return said + _chosen(result)


def _chosen(result: dict[str, Any]) -> str:
    """Say which weights were chosen, and on which images, a weight for each seed."""
    found = [
        f"{row['name']} {', '.join(f'{lam:g}' for lam in row['lam'])}"
        for row in result["rows"]
        if "lam" in row
    ]
    if not found:
        return ""
    about = result["table"]
    held, few = f"{about['validation']:,} training images held out", about["samples"]
    if few < about["validation"]:  # the accuracy is of all, what is attacked of the first
        held = f"by the accuracy on {held} and {about['rank']} on the first {few:,} of them"
    else:
        held = f"on {held}"
    return f". Weights chosen {held}: {'; '.join(found)}"


class _Pairs(NamedTuple):
    """The pairs of methods of which the paper has an order in a column."""

    total: int
    swapped: list[str]  # the other way round
    close: list[str]  # differ by less than one standard deviation of the seeds
    equal: list[str]
    unknown: list[str]  # a figure is NaN

    @property
    def undecided(self) -> int:
        return len(self.close) + len(self.equal) + len(self.unknown)


def _pairs(result: dict[str, Any], column: int) -> _Pairs:
    """Compare the order of the methods in a column with the paper's."""
    rows = [row for row in result["rows"] if row["paper"][column] is not None]
    found, total = _Pairs(0, [], [], [], []), 0
    for low, high in itertools.permutations(rows, 2):
        if low["paper"][column] < high["paper"][column]:
            total += 1
            less, more = low["ours"][column], high["ours"][column]
            both = f"{low['name']} and {high['name']}"
            if math.isnan(less) or math.isnan(more):
                found.unknown.append(both)
            elif abs(more - less) < max(low["sd"][column], high["sd"][column]):
                found.close.append(both)
            elif more == less:
                found.equal.append(both)
            elif more < less:
                found.swapped.append(f"{low['name']} before {high['name']}")
    return found._replace(total=total)


def text(result: dict[str, Any]) -> str:
    """Return the table, the order and the remark for a terminal."""
    about, cells = result["table"], lines(result)
    kind = ", quick" if result["quick"] else ""
    head = f"{about['source']}: {about['title']}; {read_from(result)}{kind}"
    columns = [(heading(name), kinds(result, i)) for i, name in enumerate(about["columns"])]
    blocks, first = [], 1
    for i in range(0, len(columns), ACROSS):
        part = columns[i : i + ACROSS]
        blocks.append(_block(part, cells, first))
        first += sum(len(said) for _, said in part)
    return "\n\n".join([head, *blocks, order(result), about["remark"]]).rstrip()


def _block(columns: list[tuple[str, tuple[str, ...]]], cells: list[list[str]], first: int) -> str:
    """Return the names and some columns, whose cells begin at `first`, under their headings."""
    said = [kind for _, kinds in columns for kind in kinds]
    rows = [["", *said], *([row[0], *row[first : first + len(said)]] for row in cells[1:])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    top, start = " " * widths[0], 1
    for title, kinds in columns:
        under = sum(widths[start : start + len(kinds)]) + 2 * (len(kinds) - 1)
        widths[start] += max(0, len(title) - under)
        top += "  " + title.rjust(under)
        start += len(kinds)
    out = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([top, out[0], "-" * len(out[0]), *out[1:]])
