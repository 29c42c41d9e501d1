"""Sweep the architectures: each in a process of its own, several at once, going on after a kill.

python -m benchmarks.zoo [--few] [--only WORD ...] [--processes 2] [--limit SECONDS]
                         [--lines FILE] [--out JSON] [--page MARKDOWN]

A line of JSON per architecture is appended to --lines; what is there already is not run again.
Exits with 1 if an architecture fails a check. Needs torchvision, timm and transformers.
"""

import argparse
import json
import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

import timm
import torch
import torchvision
import transformers

from benchmarks.zoo import checks, report
from benchmarks.zoo.architectures import FEW, Architecture, architectures

FORK = multiprocessing.get_context("fork")  # the imports take longer than many a network
ENDED = "the process ended with {}"
KILLED = ENDED.format(-signal.SIGKILL)
ZOOS = (torchvision, timm, transformers)


def main() -> int:
    """Run what is asked for and not there yet; write the figures and the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.zoo", description=__doc__.split("\n")[0])
    parser.add_argument("--few", action="store_true", help="the twenty quick ones")
    parser.add_argument("--only", nargs="+", default=[""], help="words of names")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=900, help="seconds for an architecture")
    parser.add_argument("--lines", type=Path, help="a line of JSON per architecture done")
    parser.add_argument("--out", type=Path, help="all of it in one JSON")
    parser.add_argument("--page", type=Path, help="the table, as Markdown")
    options = parser.parse_args()
    wanted = [
        architecture
        for architecture in architectures()
        if any(word in architecture.name for word in options.only)
        and (not options.few or architecture.name in FEW)
    ]
    lines = options.lines
    done = {}
    if lines and lines.exists():
        done = {entry["name"]: entry for entry in map(json.loads, lines.read_text().splitlines())}
    torch.set_num_threads(1)
    for processes in (options.processes, 1):  # alone, what was killed beside another: for memory
        missing = [architecture for architecture in wanted if architecture.name not in done]
        for entry in _swept(missing, processes, options.limit):
            if processes > 1 and KILLED in entry["failures"].values():
                continue
            done[entry["name"]] = entry
            print(report.line(entry), flush=True)
            if lines:
                lines.parent.mkdir(parents=True, exist_ok=True)
                with lines.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
    entries = [done[architecture.name] for architecture in wanted]
    figures = report.figures(entries, {zoo.__name__: zoo.__version__ for zoo in ZOOS})
    if options.out:
        options.out.write_text(report.compact(figures))
    if options.page:
        options.page.write_text(report.page(figures))
    failed = [entry for entry in entries if entry["failures"]]
    print(f"{len(entries) - len(failed)} of {len(entries)} architectures pass every check")
    return 1 if failed or not entries else 0


def _swept(wanted: list[Architecture], processes: int, limit: float) -> Iterator[dict]:
    """Yield what came out of each architecture, as they end."""
    waiting, running = list(wanted), {}
    while waiting or running:
        while waiting and len(running) < processes:
            architecture = waiting.pop(0)
            here, there = FORK.Pipe(duplex=False)
            process = FORK.Process(target=_child, args=(architecture, there))
            process.start()
            there.close()  # so that a child that dies is noticed
            running[here] = (architecture, process, time.monotonic() + limit)
        soonest = min(deadline for *_, deadline in running.values())
        ready = wait(list(running), max(0.0, soonest - time.monotonic()))
        late = [pipe for pipe, (*_, deadline) in running.items() if deadline <= time.monotonic()]
        for pipe in {*ready, *late}:
            architecture, process, _ = running.pop(pipe)
            yield _result(architecture, process, pipe, pipe in ready, limit)


def _result(architecture: Architecture, process, pipe, ready: bool, limit: float) -> dict:
    """Return what a child sent, or why it sent nothing."""
    try:
        if ready:
            return pipe.recv()
        why = f"not done after {limit:.0f} s"
        process.kill()
    except EOFError:
        process.join()
        why = ENDED.format(process.exitcode)
    finally:
        process.join()
    return _nothing(architecture, why)


def _nothing(architecture: Architecture, why: str) -> dict:
    failures = {"everything": why}
    return {**architecture._asdict(), "make": None, "errors": {}, "failures": failures}


def _child(architecture: Architecture, pipe: Connection) -> None:
    logging.disable(logging.WARNING)  # what the zoos say of untrained models
    start = time.perf_counter()
    try:
        entry = checks.swept(architecture)
    except Exception as problem:  # it cannot be made, or plain autograd cannot do it
        entry = _nothing(architecture, checks.sentence(problem))
    pipe.send({**entry, "seconds": round(time.perf_counter() - start, 1)})


if __name__ == "__main__":
    sys.exit(main())
