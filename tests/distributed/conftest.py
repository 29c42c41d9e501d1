"""Threads as the processes of a team."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch import distributed

from jacfast import meeting
from jacfast.team import Team


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

        monkeypatch.setattr(meeting, "PATIENCE", min(meeting.PATIENCE, 20.0))
        monkeypatch.setattr(Team, "here", lambda: Team(store, local.rank, size))
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(process, range(size)))

    return run
