"""Threads as the processes of a team, and processes of torchrun."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch import distributed

from jacfast import team as teams
from jacfast.team import Team

ROOT = Path(__file__).parents[2]


@pytest.fixture
def together(monkeypatch):
    """Run `work` as every process of a team; return what each returned or raised."""

    def run(size, work):
        store, local = distributed.HashStore(), threading.local()

        def process(rank):
            local.rank = rank
            try:
                return work(rank)
            except Exception as error:
                return error

        monkeypatch.setattr(teams, "PATIENCE", min(teams.PATIENCE, 20.0))
        monkeypatch.setattr(Team, "here", lambda: Team(store, local.rank, size))
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(process, range(size)))

    return run


@pytest.fixture(scope="session")
def torchrun():
    """Run a module of this folder by so many processes of torchrun."""

    def run(module, processes, *arguments, restarts=0, **environment):
        how = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
        script = ["-m", f"tests.distributed.{module}", *map(str, arguments)]
        return subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *how, *script],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run
