"""Lightning, Accelerate and the Hugging Face Trainer by two processes train as one process does."""

import functools

import pytest
import torch

from jacfast.training.schedule import Schedule
from tests.distributed import integrated
from tests.distributed.launch import torchrun
from tests.integrations import hand

for package in ("lightning", "accelerate", "transformers"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def alone():
    """The weights of a plain loop over the whole batches, its penalty by double backward."""
    net = integrated.model()
    penalty = functools.partial(integrated.PENALTY, generator=integrated.source())
    steps = hand.groups(integrated.data(), integrated.ACCUMULATED)
    lam, clip = Schedule(integrated.LAM), integrated.CLIP
    hand.train(net, steps, lam, penalty=penalty, clip=clip)
    return net.state_dict()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, alone):
    done = torchrun("tests.distributed.integrated", 2, tmp_path / "out.pt", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "out.pt")
    far = {
        kind: max(float((state[name] - alone[name]).abs().max()) for name in alone)
        for kind, state in found.items()
    }
    assert far.keys() == integrated.KINDS.keys()
    assert all(value < 1e-12 for value in far.values()), far
