"""DistributedDataParallel and FSDP by two processes train as a plain loop over whole batches."""

import functools

import pytest
import torch

from jacfast.training.schedule import Schedule
from tests.distributed import by_hand
from tests.integrations import hand

REFUSED = {
    "forward_with_penalty": "TypeError: model must have whole parameters; it is a FSDPModule:",
    "a layer": "TypeError: model must have whole parameters; 0 is a FSDPModule: with FSDP shard",
    "the pair, a layer": "TypeError: model must have whole parameters; 0 is a FSDPModule:",
    "penalised": "TypeError: model must have whole parameters; it is a FSDPModule:",
    "one line": "RuntimeError: the model's parameters must be kept for the loss's backward pass;",
    "fit": "TypeError: model must have whole parameters for its work to be shared among",
    "tensor parallel": "TypeError: model must have whole parameters; 0.weight is a DTensor:",
    "tensor parallel, one line": "RuntimeError: the model has an operation without a second deriv",
}


def alone(job: str, name: str) -> dict[str, torch.Tensor]:
    """Return the weights of a plain loop, its penalty by double backward."""
    model, penalty = by_hand.make(name), by_hand.EXACT
    if job == "DDP":
        penalty = functools.partial(by_hand.DRAWN, generator=by_hand.source())
    steps = hand.groups(by_hand.data(name), by_hand.ACCUMULATED)
    hand.train(model, steps, Schedule(by_hand.LAM), penalty=penalty, clip=by_hand.CLIP)
    return model.state_dict()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, torchrun):
    """Accumulated without synchronisation, scaled and clipped; and what is refused, in words."""
    done = torchrun("by_hand", 2, tmp_path)
    assert done.returncode == 0, done.stderr
    far = {}
    for rank in range(2):
        weights, words = torch.load(tmp_path / f"{rank}.pt")
        for job, (_, name) in by_hand.JOBS.items():
            want = alone(job, name)
            assert weights[job].keys() == want.keys()
            far[rank, job] = max(float((weights[job][k] - want[k]).abs().max()) for k in want)
        assert words.keys() == REFUSED.keys()
        assert all(words[name].startswith(start) for name, start in REFUSED.items()), words
    assert all(value < 1e-12 for value in far.values()), far
