"""What stops one process stops the others, with its words; and what is refused before work."""

import pytest
import torch
from torch import distributed

from jacfast.team import Team
from tests.distributed import faults

OTHER = "ConnectionAbortedError: another process of this job has stopped, process {} of 2: {}"
BROKEN = "ZeroDivisionError: this loss is broken"
FULL = "OSError: [Errno 27] File too large:"
NAN = "FloatingPointError: loss must stay finite; got nan in epoch 1 of fit"
HEARD = {  # by the first, and by the second
    "the first raises": (BROKEN, OTHER.format(0, BROKEN)),
    "the second raises": (OTHER.format(1, BROKEN), BROKEN),
    "both see it": (NAN, NAN),
    "full disk": (FULL, OTHER.format(0, FULL)),
    "full disk at the end": (FULL, OTHER.format(0, FULL)),
    "full disk of an attack": (OTHER.format(1, FULL), FULL),
}


@pytest.mark.slow
def test_both_processes_hear_what_has_stopped_one(tmp_path, torchrun):
    done = torchrun("faults", 2, tmp_path)
    assert done.returncode == 0, done.stderr
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank, (words, _) in enumerate(found):
        assert words.keys() == HEARD.keys() == faults.FAULTS.keys()
        for name, said in words.items():
            assert said.startswith(HEARD[name][rank]), (name, rank, said)
    hidden = [path.name for path in tmp_path.iterdir() if path.suffix != ".pt"]
    assert set(hidden) <= {".checkpoint.pt.lock", "attacked"}  # no half of a file
    states = [state for _, state in found]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert float(states[0]["1.running_mean"].abs().sum()) > 0
    assert "unused parameters" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:5] Connection closed"),
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
