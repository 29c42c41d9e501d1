"""What is said where others are lost, and what is refused before work."""

import threading

import pytest
import torch
from torch import distributed

from jacfast import meeting
from jacfast.team import Team

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:5] Connection closed"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(GLOO),
        distributed.DistBackendError("NCCL communicator was aborted"),
    ],
    ids=["gloo", "nccl"],
)
def test_whoever_is_killed_leaves_no_words_and_the_others_say_so(together, error):
    def work(rank):
        with Team.here().together():
            raise error

    (found,) = together(1, work)
    assert isinstance(found, ConnectionAbortedError)
    assert str(found).startswith("process 0 of 1 has lost the others, without a word of theirs")
    assert found.__cause__ is error
    assert error.__traceback__ is None  # torch.distributed's frames hold the group


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whoever_loses_the_others_has_their_words(error):
    store = distributed.HashStore()
    first, second = (Team(store, rank, 2) for rank in (0, 1))
    with pytest.raises(error, match="broken"), second.together():
        raise error("broken")
    words = f"another process of this job has stopped, process 1 of 2: {error.__name__}: broken"
    with pytest.raises(ConnectionAbortedError, match=words), first.together():
        raise RuntimeError(GLOO)


class Gone(dict):
    """The store of a process that has ended, after the first call."""

    def add(self, key, number):
        if self:
            raise ConnectionResetError("the store is gone")
        self[key] = number
        return number

    def check(self, keys):
        raise ConnectionResetError("the store is gone")


def test_where_the_store_is_gone_the_error_is_what_it_was():
    team = Team(Gone(), 1, 2)
    with pytest.raises(ValueError, match="of ones own"), team.together():
        raise ValueError("of ones own")
    with pytest.raises(ConnectionAbortedError, match="has lost the others"), team.together():
        raise RuntimeError(GLOO)


def test_who_works_alone_finds_by_itself_that_the_store_is_gone(monkeypatch):
    """And has no word of the thread that gives signs."""
    said = []
    monkeypatch.setattr(threading, "excepthook", said.append)
    monkeypatch.setattr(meeting, "SOON", 0.003)
    team, tried = Team(Gone(), 0, 2), threading.Event()
    monkeypatch.setattr(Gone, "add", lambda *_: tried.set() or 1 / 0)
    with team.working():
        assert tried.wait(20)
    assert not said


def test_the_place_of_a_process_and_its_gpu(monkeypatch):
    assert meeting.place() == (0, 0)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "5"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert meeting.place() == (5, 1)


def test_an_error_of_ones_own_stays(together):
    """Two processes that fail at once each say why."""

    def work(rank):
        with Team.here().together():
            raise RuntimeError(f"mat1 and mat2 cannot be multiplied ({rank})")

    assert [str(error)[-2] for error in together(2, work)] == ["0", "1"]


@pytest.mark.parametrize("more", [{}, {"RANK": "1", "MASTER_ADDR": "node", "MASTER_PORT": "1"}])
def test_another_launcher_is_refused(monkeypatch, more):
    for name, value in {"WORLD_SIZE": "4", **more}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(ValueError, match=r"WORLD_SIZE must be 1 or unset in a process.* got 4"):
        Team.here()


@pytest.mark.parametrize("size", ["1", ""])
def test_a_world_of_one_is_no_other_launcher(monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    assert Team.here().size == 1


def test_a_group_of_ones_own_is_the_team(monkeypatch):
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        monkeypatch.setattr(distributed, "get_rank", lambda: 1)
        monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
        team = Team.here()
        assert (team.rank, team.size) == (1, 3)
        with team.group(torch.device("cpu")):
            pass
        assert distributed.is_initialized()
    finally:
        monkeypatch.undo()
        distributed.destroy_process_group()


def test_a_group_without_a_backend_for_the_model_is_refused():
    distributed.init_process_group("cuda:gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        team = Team.here()
        with (
            pytest.raises(
                ValueError, match="must have a backend for the device of model, cpu; got"
            ),
            team.group(torch.device("cpu")),
        ):
            pass
    finally:
        distributed.destroy_process_group()
