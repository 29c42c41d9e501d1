"""Has something become slower since the last saved run? python -m benchmarks.track [-k WORDS]

Runs the ops and steps twice by pytest-benchmark and compares them with a run of the same Python in
its storage (``.benchmarks``): of those that have the most of their names, the newest. What the
machine itself has become slower since shows in the rivals, of
which the median is taken out; how far the two rounds of the same code lie apart is the noise. Who
is slower than before by more than that, in both rounds, is a regression: exit status 1, and nothing
is saved. Else the second round is saved, as the one to compare with. The first run is saved as it
is.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import print_table

STORAGE = Path(".benchmarks")
NAME = "track"
QUIET = 1.2  # the noise of a quiet machine, at most
Medians = dict[str, float]


def medians(file: Path) -> Medians:
    """Return the median seconds of each benchmark of a saved run."""
    found = json.loads(file.read_text())["benchmarks"]
    return {one["fullname"]: one["stats"]["median"] for one in found}


def before(saved: Path) -> tuple[Path, Medians] | None:
    """Return the run to compare a saved one with; None if no earlier one has a name of it.

    Its folder is of one machine and Python, and pytest-benchmark numbers the runs of each by
    themselves. A run of a few names is none for one of all.
    """
    names = medians(saved).keys()
    others = [path for path in _runs(saved.parent) if path != saved]
    found = {path: medians(path) for path in sorted(others, key=_number, reverse=True)}
    most = max(found, key=lambda path: len(found[path].keys() & names), default=None)
    if most is None or not found[most].keys() & names:
        return None
    return most, found[most]


def _runs(folder: Path) -> set[Path]:
    return {path for path in folder.glob("*.json") if re.match(r"\d{4,}_", path.name)}


def _number(path: Path) -> int:
    return int(path.name.split("_")[0])


def is_ours(name: str) -> bool:
    """Say whether a benchmark runs code of this library: an op, or a penalised step of ours."""
    if "test_ops" in name:
        return not any(word in name for word in ("eager", "copy of rows", "torch.sum"))
    return "jacfast" in name or "penalty(logits, x)" in name


def noise(first: Medians, second: Medians) -> float:
    """Return by which factor a benchmark differs between two rounds of the same code, at most."""
    both = [(first[name], second[name]) for name in first.keys() & second.keys()]
    return max((max(pair) / min(pair) for pair in both), default=1.0)


def drift(earlier: Medians, first: Medians, second: Medians) -> float:
    """Return by which factor the machine is slower than before: the median over the rivals."""
    names = earlier.keys() & first.keys() & second.keys()
    rivals = [min(first[n], second[n]) / earlier[n] for n in names if not is_ours(n)]
    return statistics.median(rivals) if rivals else 1.0


def slower(earlier: Medians, first: Medians, second: Medians) -> dict[str, float]:
    """Return those of ours that are slower than before, by name: by which factor.

    In both rounds, the machine's drift taken out, by more than the noise.
    """
    allowed, shift = noise(first, second), drift(earlier, first, second)
    names = earlier.keys() & first.keys() & second.keys()
    factors = {n: min(first[n], second[n]) / earlier[n] / shift for n in names if is_ours(n)}
    return {n: factor for n, factor in sorted(factors.items()) if factor > allowed}


def main(words: list[str]) -> int:
    """Run twice, compare, print; return the exit status."""
    base = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "-q", *words]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "first.json"
        done = subprocess.run([*base, f"--benchmark-json={file}"], check=False)
        if done.returncode:
            return done.returncode
        first = medians(file)
    there = _saved()
    done = subprocess.run([*base, f"--benchmark-save={NAME}"], check=False)
    if done.returncode:
        return done.returncode
    (saved,) = _saved() - there
    found = before(saved)
    if found is None:
        print(f"\nnothing to compare with yet; saved: {saved}")
        return 0
    (path, last), second = found, medians(saved)
    worse, apart = slower(last, first, second), noise(first, second)
    compared = f"{len(last.keys() & first.keys() & second.keys())} of {len(second)} names"
    print_table(f"compared with {path}, in {compared}", _rows(worse))
    print(
        f"machine: {drift(last, first, second):.2f} times as slow; noise: a factor of {apart:.2f}"
    )
    if apart > QUIET:
        print("it is not quiet: only a larger factor shows")
    if worse:
        saved.unlink()
        return 1
    print(f"saved: {saved}")
    return 0


def _saved() -> set[Path]:
    return {path for folder in STORAGE.glob("*/") for path in _runs(folder)}


def _rows(worse: dict[str, float]) -> list[tuple[str, ...]]:
    found = [(name, f"{factor:.2f}") for name, factor in worse.items()]
    return [("slower by more than the noise", "factor"), *(found or [("none", "")])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
