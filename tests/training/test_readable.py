"""A checkpoint that is written can be read back; what could not be is refused before a step."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler

from jacfast.training import fit
from tests.training.problem import cross_entropy, problem

RATES = np.logspace(-3, -1, 3)


def cosine(epoch):
    return 0.5 * (1 + np.cos(np.pi * epoch / 10))


NUMPY = {
    "rate": lambda p: (SGD(p, lr=RATES[0]), None),
    "lambda": lambda p: (o := SGD(p, lr=0.1), lr_scheduler.LambdaLR(o, cosine)),
    "momentum": lambda p: (SGD(p, lr=0.1, momentum=RATES[2], nesterov=np.bool_(True)), None),
    "betas": lambda p: (AdamW(p, lr=RATES[1], betas=(np.float64(0.9), np.float64(0.99))), None),
    "milestones": lambda p: (
        o := SGD(p, lr=0.1),
        lr_scheduler.MultiStepLR(o, np.arange(1, 4), np.float64(0.5)),
    ),
    "sequence": lambda p: (
        o := SGD(p, lr=RATES[2]),
        lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LambdaLR(o, cosine), lr_scheduler.ExponentialLR(o, np.float64(0.9))],
            [np.int64(1)],
        ),
    ),
    "words": lambda p: (SGD([{"params": list(p), "name": np.str_("all")}], lr=0.1), None),
}


def train(make, epochs, batch_size=8, loss=cross_entropy, model=None, **options):
    net, x, y = problem()
    model = model or net
    own, scheduler = make(model.parameters())
    given = {"optimizer": own, "scheduler": scheduler, "batch_size": batch_size, **options}
    fit(model, x, y, epochs=epochs, loss=loss, **given)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", NUMPY)
def test_numbers_of_numpy_go_on_to_the_bit(kind, tmp_path):
    whole = train(NUMPY[kind], 4)
    assert torch.equal(train(NUMPY[kind], 4, save=tmp_path / "whole.pt"), whole)
    train(NUMPY[kind], 2, save=tmp_path / "c.pt")
    assert torch.equal(train(NUMPY[kind], 4, save=tmp_path / "c.pt", resume=True), whole)


def test_a_rate_and_sizes_of_numpy_beside_no_optimizer(tmp_path):
    model, x, y = problem()
    options = {"batch_size": np.int8(8), "lr": np.float32(0.125), "seed": np.int8(0)}
    fit(model, x, y, epochs=1, loss=cross_entropy, save=tmp_path / "c.pt", **options)
    plain = {"batch_size": 8, "lr": 0.125, "seed": 0, "resume": True}
    fit(model, x, y, epochs=1, loss=cross_entropy, save=tmp_path / "c.pt", **plain)


def test_another_rate_of_numpy_is_noticed(tmp_path):
    train(lambda p: (SGD(p, lr=RATES[0]), None), 1, save=tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"group 0: lr was 0\.001 and is now 0\.01"):
        train(lambda p: (SGD(p, lr=RATES[1]), None), 2, save=tmp_path / "c.pt", resume=True)
    train(lambda p: (SGD(p, lr=0.001), None), 2, save=tmp_path / "c.pt", resume=True)


def test_what_a_state_dict_says_of_itself_stays(tmp_path):
    """Modules read by it of which version a state is."""
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    train(lambda p: (SGD(p, lr=0.1), None), 1, model=model, save=tmp_path / "c.pt")
    found = torch.load(tmp_path / "c.pt", weights_only=True)["model"]
    assert found._metadata == model.state_dict()._metadata


class Pair(NamedTuple):
    """Read back as a class of its own, too."""

    first: int
    second: int


class Rule:
    """What no file gives back without running code."""


class Kept(nn.Linear):
    """A module that keeps something beside its tensors."""

    def get_extra_state(self):
        return self.kept

    def set_extra_state(self, state):
        self.kept = state


def with_group(value):
    return lambda p: (SGD([{"params": list(p), "rule": value}], lr=0.1), None)


def with_scheduler(value):
    def make(parameters):
        own = SGD(parameters, lr=0.1)
        scheduler = lr_scheduler.StepLR(own, 1)
        scheduler.rule = value
        return own, scheduler

    return make


@pytest.mark.parametrize(
    ("make", "kept", "words"),
    [
        (with_group(Rule()), None, r"got a Rule in optimizer\['param_groups'\]\[0\]\['rule'\]"),
        (with_group(lambda: 1), None, r"got a function in optimizer\['param_groups'\]\[0\]"),
        (with_group(np.float32(1)), None, r"got a float32 in optimizer\['param_groups'\]"),
        (with_group((1, np.ones(2))), None, r"got a ndarray in .*\['rule'\]\[1\]: make it such"),
        (with_group(Pair(1, 2)), None, r"got a Pair in optimizer\['param_groups'\]"),
        (with_scheduler(Rule()), None, r"got a Rule in scheduler\['rule'\]"),
        (lambda p: (SGD(p, lr=0.1), None), Rule(), r"got a Rule in model\['_extra_state'\]"),
    ],
)
def test_what_could_not_be_read_back_is_refused_before_a_step(make, kept, words, tmp_path):
    def untouched(*_):
        raise AssertionError("a step was made")

    model = Kept(5, 3)
    model.kept = kept
    rule = "save must hold tensors, Python's numbers, words and containers"
    with pytest.raises(TypeError, match=rule) as e:
        train(make, 1, loss=untouched, model=model, save=tmp_path / "c.pt")
    assert e.match(words)
    assert not list(tmp_path.iterdir())
    train(make, 1, model=model)  # without a checkpoint nothing is to be read


def test_what_comes_with_the_first_step_is_refused_at_the_first_save(tmp_path):
    class Late(SGD):
        def step(self, closure=None):
            self.state[self.param_groups[0]["params"][0]]["rule"] = Rule()
            return super().step(closure)

    words = r"got a Rule in optimizer\['state'\]\[0\]\['rule'\]"
    with pytest.raises(TypeError, match=words):
        train(lambda p: (Late(p, lr=0.1), None), 2, save=tmp_path / "c.pt")
    assert not list(tmp_path.iterdir())


def test_a_lack_of_memory_is_none_of_what_is_saved(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError("of this machine")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(MemoryError, match="of this machine"):
        train(NUMPY["rate"], 1, save=tmp_path / "c.pt")
