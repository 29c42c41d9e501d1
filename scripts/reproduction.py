"""Take finished runs of `jacfast reproduce` over into the repository.

python scripts/reproduction.py RUN ...: copies result.json and the pictures of each run folder to
benchmarks/results/reproduction/, and writes their tables into docs/reproduction.md, between the
lines <!-- NAME --> and <!-- end -->; what is written around them stays. Without a RUN: draws the
pictures anew that need no network, from the figures that are there.
"""

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reproduction"
PAGE = ROOT / "docs" / "reproduction.md"
# A picture of several tables' rows: their names there, and in the picture.
JOINED = {
    "jg-figure3": {
        "jg-table7-9": {
            name: name
            for layer in ("L", "L - 1")
            for name in (f"Jacobian of {layer}", f"Jacobian of {layer} + AT")
        },
        "jg-table6": {
            "Jacobian": "Jacobian of L - 1, L fixed",
            "Jacobian + AT": "Jacobian of L - 1, L fixed, + AT",
        },
    }
}


def block(result: dict, pictures: list[str]) -> str:
    """Return table, order, remark and pictures of a result as Markdown."""
    from jacfast.reproduce import show

    about, cells, order = result["table"], show.lines(result), show.order(result)
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]  # of ||J||_F
    rows = ["| " + " | ".join(row) + " |" for row in escaped]
    rows.insert(1, "|---" * len(cells[0]) + "|")
    return "\n\n".join(
        [
            f"**{about['source']}: {about['title']}** (`jacfast reproduce {about['key']}`, "
            f"{show.read_from(result)})",
            "\n".join(rows),
            f"{order}. {about['remark']}".strip(),
            *(f"![{name}](../benchmarks/results/reproduction/{name})" for name in pictures),
        ]
    )


def main(runs: list[str]) -> None:
    page = PAGE.read_text()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for run in map(Path, runs):
        result = json.loads((run / "result.json").read_text())
        if result["quick"]:
            raise SystemExit(f"{run} is a quick run: its figures are not what the page is for")
        key = result["table"]["key"]
        shutil.copy(run / "result.json", RESULTS / f"{key}.json")
        pictures = {f"{key}-{file.name}": file for file in sorted(run.glob("*.png"))}
        for name, file in pictures.items():
            shutil.copy(file, RESULTS / name)
        place = re.compile(rf"(<!-- {key} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(page):
            page += f"\n<!-- {key} -->\n<!-- end -->\n"
        text = block(result, list(pictures))
        page = place.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
    PAGE.write_text(page)


def redraw() -> None:
    """Draw the tables and curves of all results anew."""
    from jacfast.reproduce import report

    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        pictures = {"table.png": report.figure(result)} | report.curves(result)
        for name, picture in pictures.items():
            (RESULTS / f"{file.stem}-{name}").write_bytes(picture)
    for stem, tables in JOINED.items():
        for name, picture in report.curves(joined(tables)).items():
            (RESULTS / f"{stem}-{name}").write_bytes(picture)


def joined(tables: dict[str, dict[str, str]]) -> dict:
    """Return one result of the curves of rows of several, which must be of the same sizes."""
    rows, curves = [], None
    for key, names in tables.items():
        result = json.loads((RESULTS / f"{key}.json").read_text())
        curves = curves or result["table"]["curves"]
        if result["table"]["curves"] != curves:
            raise SystemExit(f"{key} has other curves than the tables it is joined with")
        found = {row["name"]: row for row in result["rows"]}
        rows += [found[name] | {"name": shown} for name, shown in names.items()]
    return {"table": {"curves": curves}, "rows": rows}


if __name__ == "__main__":
    main(sys.argv[1:]) if sys.argv[1:] else redraw()
