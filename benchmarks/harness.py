"""Time callables against each other in one run: warm up, take turns, report medians and spread."""

import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

# JACFAST_RESULTS: another folder for the figures than that of the committed ones.
RESULTS = Path(os.environ.get("JACFAST_RESULTS") or Path(__file__).parent / "results")


def take_turns(
    contenders: dict[str, Callable[[], object]],
    repeats: int,
    kernels: bool = False,
    warm: bool = True,
) -> dict[str, dict]:
    """Time every contender `repeats` times, in turns, so that drift of the machine hits all alike.

    Args:
        kernels: on a GPU, time what the device does between two events, with the host far enough
            ahead that launches cost nothing; else what passes until the device is done.
        warm: run one round more before the first, which is not counted.

    Returns:
        By name: median, fastest and slowest seconds.
    """
    seconds = _device_seconds if kernels and torch.cuda.is_available() else _seconds
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(-warm, repeats):
        for name, run in contenders.items():
            spent = seconds(run)
            if repeat >= 0:
                times[name].append(spent)
    return {
        name: {"median": statistics.median(t), "fastest": min(t), "slowest": max(t)}
        for name, t in times.items()
    }


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _device_seconds(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(5_000_000)  # some milliseconds, in which the host queues everything
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


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
        found |= _driver()
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


def _driver() -> dict[str, str]:
    """Return the driver's version and the clocks, in MHz."""
    fields = {
        "driver": "driver_version",
        "clock": "clocks.sm",
        "clock_max": "clocks.max.sm",
        "clock_memory": "clocks.mem",
    }
    query = f"--query-gpu={','.join(fields.values())}"
    try:
        run = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return {"driver": f"unknown ({error})"}
    return dict(zip(fields, run.stdout.splitlines()[0].split(", "), strict=True))


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"
