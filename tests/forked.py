"""Processes that begin with PyTorch imported, which takes two seconds: forked from a server.

The server has computed nothing, so what it forks is as good as new. What a check of the start of a
process needs is a command (`subprocess`).
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

import torch

ROOT = Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")  # one beside each process of tests
SERVER.set_forkserver_preload(["tests.imported"])


def side_by_side(work: Callable, *arguments: object, processes: int) -> None:
    """Call ``work(rank, *arguments)`` in so many processes; raises what one of them raises."""
    torch.multiprocessing.start_processes(work, arguments, processes, start_method="forkserver")


def completed(work: Callable, *arguments: object, **environment: str) -> CompletedProcess:
    """Call `work` in a process of its own, in the root; return its exit code and its words."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "out"), Path(folder, "errors")
        given = (out, errors, {**os.environ, **environment}, work, arguments)
        process = SERVER.Process(target=_call, args=given)
        process.start()
        process.join(timeout=300)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{work.__name__} has not ended; {errors.read_text()}")
        return CompletedProcess(arguments, process.exitcode, out.read_text(), errors.read_text())


def _call(out: Path, errors: Path, environment: dict, work: Callable, arguments: tuple) -> None:
    for path, stream in ((out, 1), (errors, 2)):
        with path.open("w") as file:
            os.dup2(file.fileno(), stream)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)


def serve() -> None:
    """Let all that this process will start be forked from it as it is now, without a thread."""
    with mock.patch("multiprocessing.util.spawnv_passfds", _forked):
        forkserver.ensure_running()


def _forked(_path: str, arguments: list[str], kept: list[int]) -> int:
    """Do what a new Python with these arguments does, with these files alone; return its number."""
    process = os.fork()
    if not process:
        try:
            low = 3
            for file in sorted(kept):
                os.closerange(low, file)
                low = file + 1
            os.closerange(low, os.sysconf("SC_OPEN_MAX"))
            exec(arguments[-1], {})
        finally:
            os._exit(0)
    return process
