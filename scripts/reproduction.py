"""Take finished runs of `jacfast reproduce` over into the repository.

python scripts/reproduction.py RUN ...: copies result.json and table.png of each run folder to
benchmarks/results/reproduction/, and writes their tables into docs/reproduction.md, between the
lines <!-- NAME --> and <!-- end -->; what is written around them stays.
"""

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reproduction"
PAGE = ROOT / "docs" / "reproduction.md"


def block(result: dict) -> str:
    """Return table, order, remark and picture of a result as Markdown."""
    from jacfast.reproduce import show

    about, cells, order = result["table"], show.lines(result), show.order(result)
    picture = f"../benchmarks/results/reproduction/{about['key']}.png"
    rows = ["| " + " | ".join(row) + " |" for row in cells]
    rows.insert(1, "|---" * len(cells[0]) + "|")
    seconds = sum(row["seconds"] for row in result["rows"])
    return "\n\n".join(
        [
            f"**{about['source']}: {about['title']}** (`jacfast reproduce {about['key']}`, "
            f"{result['data']}, {seconds / 60:.0f} minutes of training)",
            "\n".join(rows),
            f"{order[0].upper()}{order[1:]}. {about['remark']}".strip(),
            f"![the paper's figures and ours]({picture})",
        ]
    )


def main(runs: list[str]) -> None:
    page = PAGE.read_text()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for run in map(Path, runs):
        result = json.loads((run / "result.json").read_text())
        key = result["table"]["key"]
        shutil.copy(run / "result.json", RESULTS / f"{key}.json")
        shutil.copy(run / "table.png", RESULTS / f"{key}.png")
        place = re.compile(rf"(<!-- {key} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(page):
            page += f"\n<!-- {key} -->\n<!-- end -->\n"
        text = block(result)
        page = place.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
    PAGE.write_text(page)


if __name__ == "__main__":
    main(sys.argv[1:])
