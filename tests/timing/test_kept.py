"""What `jacfast.bench` looks at is afterwards what it was."""

import copy
import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import nn

import jacfast
from jacfast.penalties import Penalty
from jacfast.timing import measure
from tests import nets
from tests.timing.benching import bench


class Stateful(nn.Module):
    """Changes with each call: running statistics, a counter, an attribute; draws three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Dropout(), nn.Linear(9, 5))
        self.calls, self.seen = 0, []

    def forward(self, x):
        self.calls += 1
        self.seen.append(random.random() + np.random.rand())  # noqa: NPY002
        with torch.no_grad():
            self.net[0].weight.mul_(0.999)
        return self.net(x)


def held(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [None if p.grad is None else (p.grad, p.grad.clone()) for p in model.parameters()],
        [(module.training, id(module)) for module in model.modules()],
        (model.calls, list(model.seen)),
        (torch.get_rng_state(), random.getstate(), str(np.random.get_state())),  # noqa: NPY002
    )


def assert_same(one, other):
    for name, value in one[0].items():
        assert torch.equal(value, other[0][name]), name
    for before, after in zip(one[1], other[1], strict=True):
        assert (before is None) == (after is None)
        if before is not None:
            assert before[0] is after[0], (before, after)
            assert torch.equal(before[1], after[0])
    assert one[2:4] == other[2:4]
    assert torch.equal(one[4][0], other[4][0])
    assert one[4][1:] == other[4][1:]


@pytest.mark.parametrize("ends", [None, RuntimeError("late"), KeyboardInterrupt()], ids=repr)
def test_the_model_stays_as_it_was(ends, monkeypatch):
    torch.manual_seed(3)
    model = Stateful()
    model.net[1].eval()
    model.net[0].weight.grad = torch.ones(9, 6)
    x, turns = torch.rand(8, 6), []
    before = held(model)
    if ends is not None:
        seconds_of = measure.seconds_of

        def raises(run):
            turns.append(run)
            if len(turns) == 5:
                raise ends
            return seconds_of(run)

        monkeypatch.setattr(measure, "seconds_of", raises)
        monkeypatch.setattr(measure, "in_words", lambda error: (_ for _ in ()).throw(error))
        with pytest.raises(type(ends)):
            bench(model, x=x)
        assert len(turns) == 5
    else:
        assert bench(model, x=x).rounds == 2
    assert_same(before, held(model))


def test_what_is_known_of_recorded_steps_stays():
    from jacfast.step import traced

    model, x = nets.smooth_mlp(), torch.rand(8, 6)
    jacfast.forward_with_penalty(model, x, compiled="traced")[1].backward()
    known = traced._known[model]
    plans = dict(known.plans)
    bench(model, x=x)
    assert traced._known[model] is known
    assert known.plans == plans
    fresh = copy.deepcopy(model)
    bench(fresh, x=x)
    assert fresh not in traced._known


class Turning(nn.Module):
    """A frozen parameter that is 1, 2, 3, 1, ... from call to call."""

    def __init__(self, size) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)
        self.turn = nn.Parameter(torch.ones(size), requires_grad=False)

    def forward(self, x):
        with torch.no_grad():
            self.turn.remainder_(3).add_(1)
        return self.net(x).tanh() * self.turn[:3]


@pytest.mark.parametrize("size", [3, 5000])
def test_steps_begin_where_the_others_do(size):
    torch.manual_seed(0)
    model = Turning(size)
    rows = bench(model, x=torch.randn(8, 6)).rows
    assert bool((model.turn == 1).all())
    assert not [row.why for row in rows if row.why and "runs eager" not in row.why]
    assert len([row for row in rows if row.error is not None]) > 3


class Mean(nn.Module):
    """A running mean of the logits, and how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(5))
        self.calls = 0

    def forward(self, logits):
        self.calls += 1
        self.mean.mul_(0.9).add_(logits.detach().mean(0), alpha=0.1)
        return self.calls * self.mean


@dataclasses.dataclass(frozen=True)
class Along(Penalty):
    """``mean_i ||J(x_i)^T m||^2`` along a running mean m."""

    mean: nn.Module
    squared = True

    def cotangents(self, logits, x, y, draw):
        return self.mean(logits).to(logits.dtype).expand_as(logits)[None]


def test_what_a_penalty_keeps_is_the_same_for_all_and_stays_as_it_was():
    penalty = Along(Mean())
    ours = {row.name: row for row in bench(nets.mlp(), penalty).rows}["jacfast, eager"]
    assert ours.why is None
    assert ours.error < 1e-5
    assert penalty.mean.calls == 0
    assert torch.equal(penalty.mean.mean, torch.ones(5))


@pytest.mark.parametrize("own", [nn.Parameter, torch.Tensor.requires_grad_])
def test_what_a_penalty_has_learned_has_the_gradient_that_it_had(own):
    weights = own(torch.rand(5))
    weights.grad = before = torch.ones(5)
    bench(nets.mlp(), jacfast.Frobenius("exact", weights=weights))
    assert weights.grad is before
    assert torch.equal(before, torch.ones(5))
