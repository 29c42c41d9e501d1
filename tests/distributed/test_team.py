"""Processes that share a job, as threads with a store of their own: who takes what, what stops."""

import threading
import time

import pytest
import torch

from jacfast.team import MARK, shared

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


@pytest.mark.parametrize("left", [False, True])
def test_a_folder_that_is_not_shared_is_refused(tmp_path, together, left):
    def work(rank):
        (tmp_path / str(rank)).mkdir()
        if left:  # by a job that was killed, and copied with the folder
            (tmp_path / str(rank) / MARK).write_text("of an earlier job")
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
