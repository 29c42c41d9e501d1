"""Processes that share a job, as threads with a store of their own: who takes what, what stops."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import distributed

from jacfast import meeting
from jacfast import team as teams
from jacfast.team import shared

ABOUT = {"attack": "fgsm", "eps": 0.1}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_every_item_is_taken_once_and_all_wait_for_the_last(tmp_path, together, size, count):
    taken, ends = [], []

    def work(rank):
        with shared(tmp_path / "out", "job.json", ABOUT) as team:
            for number, item in team.share(torch.arange(10, 10 + count)):
                time.sleep(0.01)
                taken.append((number, int(item)))
            ends.append(len(taken))
            return team.count

    assert together(size, work) == [count] * size
    assert sorted(taken) == [(n, 10 + n) for n in range(count)]
    assert ends == [count] * size
    assert not (tmp_path / "out").exists()  # nothing was left in it


def test_a_slow_process_does_not_hold_the_others(tmp_path, together):
    taken, through = {0: 0, 1: 0}, threading.Event()

    def work(rank):
        with shared(tmp_path, "job.json", ABOUT) as team:
            for _ in team.share(range(21)):
                taken[rank] += 1
                if sum(taken.values()) == 21:
                    through.set()
                if rank:
                    assert through.wait(timeout=20)

    assert together(2, work) == [None, None]
    assert taken[1] < 2
    assert sum(taken.values()) == 21


def test_jobs_after_one_another_do_not_mix(tmp_path, together):
    def work(rank):
        found = []
        for name in ("a", "b"):
            with shared(tmp_path / name, "job.json", {"name": name}) as team:
                found.append([number for number, _ in team.share(range(5))])
        return found

    (a, b), (c, d) = together(2, work)
    assert sorted(a + c) == sorted(b + d) == list(range(5))


def test_what_stops_one_stops_all_with_its_words(tmp_path, together):
    taken = []

    def work(rank):
        with shared(tmp_path, "job.json", ABOUT) as team:
            for number, _ in team.share(range(1000)):
                taken.append(number)
                time.sleep(0.01)
                if number == 5:
                    raise ValueError("this batch is broken")

    found = together(3, work)
    (own,) = (error for error in found if isinstance(error, ValueError))
    others = [error for error in found if error is not own]
    for error in others:  # which do not pass the words on as their own
        assert isinstance(error, ConnectionAbortedError)
        assert str(error).count("has stopped, process") == 1
        assert "of 3: ValueError: this batch is broken" in str(error)
    assert len(others) == 2
    assert len(taken) < 100  # nobody goes on


@pytest.mark.parametrize(
    ("about", "items", "words"),
    [
        (lambda rank: {**ABOUT, "eps": rank}, lambda rank: range(9), "eps is 0 in the first one"),
        (
            lambda rank: {**ABOUT, f"more{rank}": 1},
            lambda rank: range(9),
            "more0 is 1 in the first one, and None",
        ),
        (
            lambda rank: {**ABOUT, "more": 1} if rank else ABOUT,
            lambda rank: range(9),
            "more is None in the first one, and 1",
        ),
        (lambda _: ABOUT, lambda rank: torch.ones(9, 2) + rank, "the first batch is"),
        (lambda _: ABOUT, lambda rank: range(9 + rank), "the number of batches is 9 in the first"),
        (lambda _: ABOUT, lambda rank: range(9 * rank), "first one, and"),
    ],
    ids=["option", "name", "further name", "data", "longer", "empty"],
)
def test_another_job_in_one_process_is_refused(tmp_path, together, about, items, words):
    def work(rank):
        with shared(tmp_path, "job.json", about(rank)) as team:
            for _ in team.share(items(rank)):
                pass

    found = together(2, work)
    assert {type(error) for error in found} == {ValueError, ConnectionAbortedError}
    assert all(words in str(error) for error in found)
    assert all("in process 1 of 2" in str(error) for error in found)


def test_what_json_has_in_other_words_is_the_same_job(tmp_path, together):
    """A tuple is a list there."""

    def work(rank):
        with shared(tmp_path, "job.json", {"sizes": (1, 2)}) as team:
            return team.size

    assert together(2, work) == [2, 2]


def test_a_folder_that_is_not_shared_is_refused(tmp_path, together):
    def work(rank):
        (tmp_path / str(rank)).mkdir()
        with shared(tmp_path / str(rank), "job.json", ABOUT):
            raise AssertionError("no work is begun")

    found = together(2, work)
    assert {type(error) for error in found} == {ValueError, ConnectionAbortedError}
    assert all("out must be a folder that all processes see" in str(error) for error in found)
    assert not list((tmp_path / "0").iterdir())


def test_a_folder_of_another_job_stops_all_before_work(tmp_path, together):
    (tmp_path / "mine").write_text("a file of somebody's")

    def work(rank):
        with shared(tmp_path, "job.json", ABOUT):
            raise AssertionError("no work is begun")

    found = together(2, work)
    assert all("out must be empty or of the same run" in str(error) for error in found)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("gone", [0, 1])
def test_nobody_waits_for_ever(tmp_path, together, monkeypatch, gone):
    """One process leaves without a word, as by kill -9 where nobody watches."""
    monkeypatch.setattr(meeting, "PATIENCE", 0.3)

    def work(rank):
        if rank == gone:
            return None
        with shared(tmp_path, "job.json", ABOUT) as team:
            return list(team.share(range(3)))

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
            with shared(tmp_path, "job.json", ABOUT):
                pass

    with pytest.warns(UserWarning, match="process 0 of 2 waits for the others") as said:
        together(2, work)
    assert len(said) == 1


def test_one_that_waits_for_the_last_batch_says_nothing(tmp_path, together, clock, recwarn):
    def work(rank):
        with shared(tmp_path, "job.json", ABOUT) as team:
            for number, _ in team.share(range(4)):
                if number == 3:
                    clock.passes(meeting.SOON + 1)

    assert together(2, work) == [None, None]
    assert not [one for one in recwarn if "waits for" in str(one.message)]


def test_progress_counts_as_a_sign(tmp_path, together, clock):
    """A process that is through waits for those that work, one by one, however long that takes."""
    both = threading.Barrier(2, timeout=20)

    def work(rank):
        with shared(tmp_path, "job.json", ABOUT) as team:
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
        with shared(tmp_path, "job.json", ABOUT) as team:
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
            clock.passes(meeting.PATIENCE + 1)
            assert end.wait(20)
            return None
        try:
            return team.told(lambda: 2)
        finally:
            end.set()

    assert isinstance(together(2, work)[1], TimeoutError)


class Bar:
    """A progress bar that keeps what it has shown."""

    def __init__(self) -> None:
        self.n, self.shown = 0, []

    def update(self, more: int) -> None:
        self.n += more
        self.shown.append(self.n)


def test_the_bar_goes_on_while_one_waits(together, monkeypatch):
    """The first process is through at once, and sees the batches of the other one."""
    bar = Bar()
    monkeypatch.setattr(teams, "watch", lambda **_: contextlib.nullcontext(bar))
    taken = threading.Event()

    def work(rank):
        team = teams.Team.here()
        for number, _ in team.share(range(4)):
            if rank == 0:
                taken.set()
                assert other.wait(20)  # the other has all that is left
                continue
            other.set()
            assert taken.wait(20)
            end = time.monotonic() + 20
            while bar.n < number:  # its own, and those of here
                assert time.monotonic() < end, "not shown"
                time.sleep(0.001)

    other = threading.Event()
    assert together(2, work) == [None, None]
    assert bar.n == 4


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
