"""Turns, medians and spreads; what a call allocates."""

import os
import sys

import pytest
import torch

from jacfast.timing import memory
from jacfast.timing.cost import Unit
from jacfast.timing.turns import Turns, take_turns


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows one after the other the starts and ends of calls of these lengths."""

    def set_to(*lengths: float) -> None:
        times = iter([time for i, length in enumerate(lengths) for time in (i, i + length)])
        monkeypatch.setattr("time.perf_counter", lambda: next(times))

    return set_to


def test_contenders_take_turns():
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name)) for name in ("a", "b", "c")}
    figures = take_turns(runs, 2)
    assert calls == ["a", "b", "c"] * 3  # the first round warms up
    assert set(figures["a"]) == {"median", "fastest", "slowest", "spread"}


def test_figures(clock):
    clock(0.4, 0.1, 0.2, 0.3, 0.5)
    turns = Turns({"a": lambda: None})
    for _ in range(5):
        turns.turn("a")
    want = {"median": 0.3, "fastest": 0.1, "slowest": 0.5, "spread": 0.2 / 0.3}
    assert turns.figures()["a"] == pytest.approx(want)


def test_who_had_no_turn_has_no_figures(clock):
    clock(0.4)
    turns = Turns({"a": lambda: None, "b": lambda: None})
    turns.turn("a")
    assert turns.figures() == {
        "a": {"median": pytest.approx(0.4), "fastest": pytest.approx(0.4)}
        | {"slowest": pytest.approx(0.4), "spread": 0.0}
    }


def test_peak_bytes():
    """Two tensors of 4 MB at once, then one of 4 MB."""

    def run() -> None:
        a = torch.ones(1_000_000)
        a = a + 1  # both are alive
        del a
        torch.ones(1_000_000)

    assert memory.peak_bytes(run, torch.device("cpu")) == pytest.approx(8_000_000, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it may not be known")
def test_free_bytes_are_more_than_nobody_uses_and_less_than_there_are():
    page, unused, there = (
        os.sysconf(f"SC_{name}") for name in ("PAGE_SIZE", "AVPHYS_PAGES", "PHYS_PAGES")
    )
    found = memory.free_bytes(torch.device("cpu"))
    assert unused * page / 2 < found < there * page  # a half: others take and give meanwhile


def test_a_look_at_memory_leaves_the_environment_as_it_was(monkeypatch):
    for own in (None, "1"):
        monkeypatch.delenv(memory.LOG_LEVEL, raising=False)
        if own:
            monkeypatch.setenv(memory.LOG_LEVEL, own)
        memory.peak_bytes(lambda: torch.ones(1), torch.device("cpu"))
        assert os.environ.get(memory.LOG_LEVEL) == own


def test_what_many_passes_are_likely_to_take():
    """A plain step, and for each pass what one projection takes beyond it."""
    assert Unit(plain=(1.0, 100), one=(3.0, 150)).of_passes(10) == (21.0, 600)
    assert Unit(plain=(1.0, 100), one=(0.9, 90)).of_passes(10) == (1.0, 100)
