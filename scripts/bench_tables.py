"""Tables of benchmarks/README.md, made of benchmarks/results: `python scripts/bench_tables.py`.

Each stands between `<!-- NAME -->` and `<!-- end -->`; a test holds it against the files. Their
rows are made in `short_table.py`, `step_tables.py` and `attack_tables.py`.
"""

import json
import re
from pathlib import Path

import attack_tables
import short_table
import step_tables

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "benchmarks" / "README.md"
TABLES = short_table.TABLES | step_tables.TABLES | attack_tables.TABLES


def read(name: str) -> dict:
    """Return what a file of results found."""
    found = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    del found["environment"]
    return found


def table(name: str) -> str:
    """Return the table of that name."""
    make, *files = TABLES[name]
    head, *rows = ("| " + " | ".join(cells) + " |" for cells in make(*map(read, files)))
    bars = "|---" * (head.count("|") - 1) + "|"
    return re.sub(r"(?<=\|)  (?=\|)", " ", "\n".join([head, bars, *rows])) + "\n"


def with_tables(text: str) -> str:
    """Return the page with the tables of today's results."""
    for name in TABLES:
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        text = re.sub(f"(?s){begin}.*?{end}", f"{begin}{table(name)}{end}", text)
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
