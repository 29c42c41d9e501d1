"""Time callables against each other in one run: warm up, take turns, report medians and spread."""

import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def take_turns(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict]:
    """Time every contender `repeats` times, in turns, so that drift of the machine hits all alike.

    Returns:
        By name: median, fastest and slowest seconds. One round before the first is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {
        name: {"median": statistics.median(t), "fastest": min(t), "slowest": max(t)}
        for name, t in times.items()
    }


def environment(*packages: str) -> dict[str, str]:
    """Return the machine, the commit and the versions that figures depend on."""
    found = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "commit": _git("describe", "--always", "--dirty"),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    for package in ("torch", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write(name: str, results: dict) -> Path:
    """Write results/NAME.json and return its path."""
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    return path


def print_table(title: str, rows: list[tuple[str, ...]]) -> None:
    """Print rows of text, the first one a heading, with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((li.split(": ")[1] for li in lines if li.startswith("model name")), "unknown")


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"
