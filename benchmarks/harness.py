"""What all benchmarks share beside `jacfast.timing`: the commit, the tables, the folder."""

import json
import os
import subprocess
from pathlib import Path

from torch import Tensor

from jacfast import timing
from jacfast.timing.turns import take_turns
from jacfast.timing.verify import error

__all__ = ["RESULTS", "environment", "must_agree", "print_table", "take_turns", "write"]

# JACFAST_RESULTS: another folder for the figures than that of the committed ones.
RESULTS = Path(os.environ.get("JACFAST_RESULTS") or Path(__file__).parent / "results")


def environment(*packages: str) -> dict[str, str]:
    """Return the machine, the commit and the versions that figures depend on.

    Files of results, which a run before this one has written, make no commit dirty.
    """
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"
    )
    commit = _git("describe", "--always") + ("" if changed in ("", "unknown") else "-dirty")
    return timing.environment(*packages) | {"commit": commit}


def write(name: str, results: dict) -> Path:
    """Write results/NAME.json and return its path."""
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    return path


def must_agree(name: str, found: Tensor, rival: str, want: Tensor, most: float) -> None:
    """Raise unless a gradient is a rival's, up to a relative error; one with a NaN is none's."""
    if not (off := error(found, want)) <= most:
        raise RuntimeError(f"{name} must agree with {rival}; relative error {off:.2e}")


def print_table(title: str, rows: list[tuple[str, ...]]) -> None:
    """Print rows of text, the first one a heading, with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells))


def _git(*arguments: str) -> str:
    try:
        run = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return "unknown"
    return run.stdout.strip() or "unknown"
