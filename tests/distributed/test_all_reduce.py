"""What a step says to the other processes: one gradient, with a penalty as without."""

import pytest
import torch
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

import jacfast
from jacfast.training import Defence
from jacfast.training.process import OneOfMany
from tests.training.problem import cross_entropy, problem


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


@pytest.mark.parametrize(("samples", "own"), [(8, 4), (3, 2)])
def test_the_loss_is_that_of_the_batch(group, monkeypatch, samples, own):
    """The first of two processes, whose other one has the same loss."""
    model, x, y = problem()
    process = OneOfMany(model, Defence())
    process.size = 2
    monkeypatch.setattr(distributed, "all_reduce", lambda mean: mean.mul_(2))
    value, loss = process.losses(x[:samples], y[:samples], 0)
    del process.parallel
    want = float(cross_entropy(model, x[:own], y[:own])) * own * 2 / samples
    assert float(value) == pytest.approx(want)
    assert loss == pytest.approx(want)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda model, x, y: model(x).sum(1), r"loss must return a scalar tensor; got shape \[8\]"),
        (lambda model, x, y: model(x).sum().item(), "loss must return a scalar tensor; got float"),
        (lambda model, x, y: model(x).sum().detach(), "loss must depend on the model's parameters"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_of_many_as_in_one(group, loss, words):
    model, x, y = problem()
    process = OneOfMany(model, loss)
    with pytest.raises((TypeError, ValueError), match=words):
        process.losses(x[:8], y[:8], 0)
    process.leave()


def test_buffers_are_those_of_the_first_process_in_the_end(group, monkeypatch):
    """Whatever their layout: what is sent is contiguous."""
    model, _, _ = problem()
    model.register_buffer("seen", torch.zeros(3, 4).T)
    model.register_buffer("mask", torch.zeros(2, dtype=torch.bool))
    process = OneOfMany(model, Defence())
    monkeypatch.setattr(distributed, "broadcast", lambda flat, _: flat.view(-1).fill_(1))
    process.ended()
    process.leave()
    assert all(bool((buffer == 1).all()) for buffer in model.buffers())


def test_random_numbers_go_on_with_those_of_the_first_process(group, monkeypatch):
    process, firsts = OneOfMany(problem()[0], Defence()), [torch.Generator() for _ in range(2)]
    own = [torch.Generator() for _ in firsts]
    for number, generator in enumerate((*firsts, *own)):
        generator.manual_seed(number)
    states = torch.cat([generator.get_state() for generator in firsts])
    monkeypatch.setattr(distributed, "broadcast", lambda joined, _: joined.copy_(states))
    process.stepped(own)
    process.leave()
    for generator, first in zip(own, firsts, strict=True):
        assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=first))
