"""Training by several processes follows the trajectory of one, also after kills."""

import contextlib
import itertools

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

import jacfast
from jacfast.training import Defence, checkpoint, fit
from tests.distributed.launch import torchrun
from tests.distributed.trained import DROPOUT, KINDS, train
from tests.training.problem import cross_entropy, problem

FAR = 1e-12  # in float64


def distance(a, b) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a.keys() & b.keys())


@pytest.fixture(scope="module")
def alone():
    return {kind: train(kind) for kind in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_follows_one_trajectory(tmp_path, alone, processes):
    done = torchrun("tests.distributed.trained", processes, tmp_path / "out.pt")
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "out.pt")
    assert all(found[kind].keys() == alone[kind].keys() for kind in KINDS)
    far = {kind: distance(found[kind], alone[kind]) for kind in KINDS}
    assert not {kind: value for kind, value in far.items() if not value < FAR}


def test_the_kinds_differ(alone):
    """Else the test above could not tell one from another."""
    kinds = [kind for kind in KINDS if kind not in DROPOUT]  # its layers have other names
    for a, b in itertools.pairwise(kinds):
        assert distance(alone[a], alone[b]) > 1e-4, (a, b)


@pytest.mark.slow
@pytest.mark.parametrize(("ends", "restarts"), [("1", 1), ("0", 1), ("0", 0)])
def test_a_kill_costs_the_steps_since_the_last_checkpoint(tmp_path, alone, ends, restarts):
    """torchrun starts anew; or nobody does, and one process goes on."""
    save = tmp_path / "checkpoint.pt"
    done = torchrun(
        "tests.distributed.trained", 2, tmp_path / "out.pt", save, restarts=restarts, ENDS=ends
    )
    assert checkpoint.read(save, None)["epoch"] == (5 if restarts else 2)
    if restarts:
        assert done.returncode == 0, done.stderr
        found = torch.load(tmp_path / "out.pt")["ended"]
    else:
        assert done.returncode != 0
        found = train("penalty", save=save, resume=True)
    assert distance(found, alone["penalty"]) < FAR


@pytest.mark.parametrize("other", ["weights", "weights of loss", "x", "y", "seed"])
def test_processes_with_another_job_are_refused(together, other):
    problems = [problem(), problem()]
    with torch.no_grad():
        next(problems[1][0].parameters()).add_(other == "weights")

    def work(rank):
        model, x, y = problems[rank]
        y = y.flip(0) if rank and other == "y" else y
        x = x + 1 if rank and other == "x" else x
        seed = rank if other == "seed" else 0
        own = torch.nn.Parameter(torch.full((3,), 1.0 + rank * (other == "weights of loss")))
        loss = Defence(jacfast.Frobenius(weights=own), 0.1)
        optimizer = torch.optim.SGD([*model.parameters(), own], 0.1)
        fit(model, x, y, epochs=1, batch_size=8, optimizer=optimizer, loss=loss, seed=seed)

    found = together(2, work)
    assert all(f"{other} is" in str(error) and "in process 1 of 2" in str(error) for error in found)


def test_parameters_of_nobody_are_refused(together):
    """Without a checkpoint, too: each process would go its own way with them."""

    def work(rank):
        model, x, y = problem()
        own = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([*model.parameters(), own], 0.1)
        fit(model, x, y, epochs=1, batch_size=8, optimizer=optimizer, loss=cross_entropy)

    found = together(2, work)
    assert all("optimizer must have parameters of model" in str(error) for error in found)


def in_batches(data, own):
    return DataLoader(data, batch_sampler=BatchSampler(own, 8, drop_last=False))


def by_accelerate(data, own):
    shards = pytest.importorskip("accelerate.data_loader").BatchSamplerShard
    inner = BatchSampler(range(30), 8, drop_last=False)
    return DataLoader(data, batch_sampler=shards(inner, own.num_replicas, 0))


SHARING = [lambda data, own: DataLoader(data, 8, sampler=own), in_batches, by_accelerate]


@pytest.mark.parametrize("make", SHARING, ids=["sampler", "batches", "accelerate"])
def test_a_sampler_that_shares_out_is_refused(make):
    """Each process would take its part of its part, and nobody the rest."""
    model, x, y = problem()
    data = TensorDataset(x, y)
    for replicas in (1, 2):
        loader = make(data, DistributedSampler(data, num_replicas=replicas, rank=0))
        refused = pytest.raises(ValueError, match="x must yield whole batches")
        with refused if replicas > 1 else contextlib.nullcontext():
            fit(model, loader, epochs=1, lr=0.1, loss=cross_entropy)


def test_a_loader_of_ones_own_may_read_by_several_processes():
    class Read(list):
        num_processes = 4

    model, x, y = problem()
    fit(model, Read([(x, y)]), epochs=1, lr=0.1, loss=cross_entropy)


@pytest.mark.slow
def test_what_a_process_draws_by_itself(tmp_path):
    """It is drawn apart in each process and step, again as it was, and in checkpoints, too."""
    done = torchrun("tests.distributed.drawn", 2, tmp_path)
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    (first, weights), _, _ = ranks[0]
    (second, others), _, _ = ranks[1]
    assert torch.equal(weights, others)
    assert len({tuple(one.tolist()) for one in first + second}) == len(first + second) == 24
    for whole, resumed, again in ranks:
        assert torch.equal(whole[1], resumed[1])
        assert torch.equal(torch.stack(whole[0][6:]), torch.stack(resumed[0]))
        for drawn in again:  # 3 steps, each a forward pass and that of the backward pass
            assert len(drawn) == 6
            for forward, backward in zip(drawn[::2], drawn[1::2], strict=True):
                assert torch.equal(forward, backward)
