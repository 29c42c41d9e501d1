"""What a step says to the other processes: one gradient, with a penalty as without."""

import pytest
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

import jacfast
from jacfast.training import Defence
from jacfast.training.process import OneOfMany
from tests.training.problem import problem


@pytest.fixture
def group():
    """A group of one process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("penalty", [None, jacfast.Frobenius(), jacfast.Frobenius(n="exact")])
def test_a_penalty_adds_no_communication(group, penalty):
    model, x, y = problem()
    loss = Defence() if penalty is None else Defence(penalty, 0.1)
    process, sent = OneOfMany(model, loss), []

    def hook(state, bucket):
        sent.append(bucket.buffer().numel())
        return allreduce_hook(state, bucket)

    process.parallel.register_comm_hook(None, hook)
    process.losses(x, y, 0)[0].backward()
    del process.parallel
    assert all(p.grad is not None for p in model.parameters())
    assert sum(sent) == sum(p.numel() for p in model.parameters())
