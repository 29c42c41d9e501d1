"""Progress in a terminal, in a log, and not at all."""

import io
import sys

import pytest

from jacfast.progress import Lines, silent, watch


class Clock:
    """Time that passes by a tenth of a second with each look at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


@pytest.mark.usefixtures("clock")
def test_a_log_gets_a_line_now_and_then(capsys):
    for _ in watch(range(3000), desc="fit"):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert 3 < len(lines) < 20
    assert all(line.startswith("fit: ") for line in lines)
    assert "100%" in lines[-1]
    assert not any("\r" in line for line in lines)


def test_a_line_is_in_the_log_when_it_is_written():
    log = io.BytesIO()
    write = Lines.status_printer(io.TextIOWrapper(log))
    for state, whole in (("one", b"one"), ("two", b"one\ntwo")):
        write(state)
        assert log.getvalue() == whole


def test_nothing_writes_a_line_in_between():
    """After `maxinterval` a thread of tqdm's would, where an iteration takes long."""
    with watch(total=3) as shown:
        assert shown.maxinterval >= shown.mininterval


def test_what_takes_no_time_says_nothing(capsys):
    assert list(watch(range(1000))) == list(range(1000))
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    list(watch(range(10), desc="fit"))
    said = capsys.readouterr().err
    assert "\rfit: " in said
    assert said.count("\n") == 1


def test_silence(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with silent():
        assert list(watch(range(10), desc="fit")) == list(range(10))
    assert capsys.readouterr().err == ""
    with silent():
        list(watch(range(10), desc="fit", disable=False))
    assert capsys.readouterr().err == ""
    with silent():
        with silent():
            pass
        list(watch(range(10), desc="fit"))
    assert capsys.readouterr().err == ""
    with silent(False):
        list(watch(range(10), desc="fit"))
    assert "fit: " in capsys.readouterr().err


def test_a_program_without_an_error_stream_works_on(monkeypatch):
    """As pythonw has none."""
    monkeypatch.setattr(sys, "stderr", None)
    assert list(watch(range(3), desc="fit")) == [0, 1, 2]
