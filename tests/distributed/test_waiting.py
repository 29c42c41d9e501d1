"""Who waits for others, how long, and what is shown and said meanwhile."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch import distributed

from jacfast import meeting
from jacfast import team as teams
from jacfast.team import shared


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("gone", [0, 1])
def test_nobody_waits_for_ever(tmp_path, together, monkeypatch, gone, begun):
    """One process leaves without a word, as by kill -9 where nobody watches."""

    def leave():
        monkeypatch.setattr(meeting, "PATIENCE", 0.3)

    def work(rank):
        if rank == gone and not begun:
            return leave()
        with shared(tmp_path, "job.json", {}) as team:
            for _ in team.share(range(3)):
                if rank == gone:
                    return leave()

    found = together(2, work)
    assert isinstance(found[1 - gone], TimeoutError)
    assert "has waited 0.3 s for" in str(found[1 - gone])


class Clock:
    """The time of a team, in place of the module: it stands still but for what a test lets pass."""

    def __init__(self) -> None:
        self.now, self.looks, self.counted = 0.0, threading.Semaphore(0), False

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _seconds: float) -> None:  # after each look of a process that waits
        if self.counted:
            self.looks.release()
        time.sleep(0.001)

    def passes(self, seconds: float) -> None:
        """Let so much pass for one that waits: it looks before and after."""
        self.counted = True
        for step in (seconds, 0):
            for _ in range(2):  # the first may have begun before
                assert self.looks.acquire(timeout=20), "nobody waits"
            self.now += step


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meeting, "time", clock)
    monkeypatch.setattr(meeting, "SOON", 10.0)
    return clock


def test_one_that_waits_says_what_the_others_must_do(tmp_path, together, clock):
    """A call in the first process alone, as for plain evaluation, would wait for the others."""

    def work(rank):
        if rank:
            clock.passes(meeting.SOON + 1)
            clock.now += meeting.PATIENCE
        else:
            with shared(tmp_path, "job.json", {}):
                pass

    with pytest.warns(UserWarning, match="process 0 of 2 waits for the others") as said:
        together(2, work)
    assert len(said) == 1


def test_one_that_waits_for_the_last_batch_says_nothing(tmp_path, together, clock, recwarn):
    def work(rank):
        with shared(tmp_path, "job.json", {}) as team:
            for number, _ in team.share(range(4)):
                if number == 3:
                    clock.passes(meeting.SOON + 1)

    assert together(2, work) == [None, None]
    assert not [one for one in recwarn if "waits for" in str(one.message)]


def test_progress_counts_as_a_sign(tmp_path, together, clock):
    """A process that is through waits for those that work, one by one, however long that takes."""
    both = threading.Barrier(2, timeout=20)

    def work(rank):
        with shared(tmp_path, "job.json", {}) as team:
            for number, _ in team.share(range(2)):
                both.wait()
                end = time.monotonic() + 20
                while team._done() < number:
                    assert time.monotonic() < end
                    time.sleep(0.001)
                clock.passes(0.9 * meeting.PATIENCE)
            return team.count

    assert together(3, work) == [2, 2, 2]


def test_the_bar_is_of_the_whole_and_shown_once(tmp_path, together, monkeypatch):
    def work(rank):
        with shared(tmp_path, "job.json", {}) as team:
            for _ in team.share(range(6), desc="working", unit="batch"):
                time.sleep(0.01)

    shown, watch = [], teams.watch

    def watched(*, disable, **options):
        shown.append((watch(disable=disable, **options), disable))
        return shown[-1][0]

    monkeypatch.setattr(teams, "watch", watched)
    together(2, work)
    assert [(bar.n, bar.total) for bar, hidden in shown if not hidden] == [(6, 6)]
    assert len(shown) == 2


def test_who_makes_something_long_alone_gives_signs(together, clock, monkeypatch):
    """Files that the first process looks through, longer than the others have patience."""
    monkeypatch.setattr(meeting, "SOON", 0.03)  # so often are the signs, in a thread's own time

    def work(rank):
        team = teams.Team.here()

        def make():
            end = time.monotonic() + 20
            for _ in range(3):
                signs = team._store.add(meeting.SIGNS, 0)
                while team._store.add(meeting.SIGNS, 0) == signs:
                    assert time.monotonic() < end, "no sign"
                    time.sleep(0.001)
                clock.passes(0.9 * meeting.PATIENCE)
            return "made"

        with team.together():
            return team.told(make)

    assert together(2, work) == ["made", "made"]


def test_signs_end_with_the_work(together, clock, monkeypatch):
    """One that waits for the first process later on loses its patience."""
    monkeypatch.setattr(meeting, "SOON", 0.03)
    end = threading.Event()

    def work(rank):
        team = teams.Team.here()
        assert team.told(lambda: 1) == 1
        if rank == 0:
            clock.passes(0)
            clock.now += meeting.PATIENCE + 1
            return end.wait(20)
        try:
            return team.told(lambda: 2)
        finally:
            end.set()

    first, second = together(2, work)
    assert first is True
    assert isinstance(second, TimeoutError)


class Bar:
    """A progress bar that keeps what it has shown."""

    def __init__(self) -> None:
        self.n, self.shown = 0, []

    def update(self, more: int) -> None:
        self.n += more
        self.shown.append(self.n)


def test_the_bar_goes_on_while_one_waits(together, monkeypatch):
    """The first process is through at once, and sees the batches of the others."""
    bar, all_have_one = Bar(), threading.Barrier(3, timeout=20)
    one = lambda disable, **_: contextlib.nullcontext(Bar() if disable else bar)  # noqa: E731
    monkeypatch.setattr(teams, "watch", one)

    def work(rank):
        for _ in teams.Team.here().share(range(3)):
            all_have_one.wait()
            end = time.monotonic() + 20
            while bar.n < rank:
                assert time.monotonic() < end, "not shown"
                time.sleep(0.001)

    assert together(3, work) == [None] * 3
    assert bar.n == 3


def test_the_bar_goes_on_with_each_batch(monkeypatch):
    """Of a process that is alone, or has most of them."""
    bar = Bar()
    monkeypatch.setattr(teams, "watch", lambda **_: contextlib.nullcontext(bar))
    for number, _ in teams.Team(distributed.HashStore(), 0, 1).share(range(4)):
        assert bar.n == number
    assert bar.n == 4


def test_who_wants_no_bar_has_none(monkeypatch):
    shown = []
    one = lambda disable, **_: shown.append(not disable) or contextlib.nullcontext(Bar())  # noqa: E731
    monkeypatch.setattr(teams, "watch", one)
    for disable in (False, True):
        team = teams.Team(distributed.HashStore(), 0, 1)
        assert len(list(team.share(range(2), disable=disable))) == 2
    assert shown == [True, False]


def test_the_bar_ends_with_all():
    """Where the others are there already, there was nothing to wait for."""
    store, bar = distributed.HashStore(), Bar()
    first, second = (teams.Team(store, rank, 2) for rank in (0, 1))
    second._add("done", 3)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(second._meet)
        while first._add("meeting 1", 0) < 1:
            time.sleep(0.001)
        first._meet(bar)
        waits.result(20)
    assert bar.shown == [3]
