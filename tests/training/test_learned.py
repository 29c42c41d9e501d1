"""What a loss learns itself is trained, saved and resumed with the model, or refused."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast import cotangents
from jacfast.penalties.base import Penalty
from jacfast.training import Defence, fit
from jacfast.training.learned import learned
from tests.training.problem import cross_entropy, problem


class Headed(nn.Module):
    """A loss with a head, and with a buffer that counts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.head = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, model, x, y):
        self.calls += 1
        return F.cross_entropy(self.head(model(x)), y) * (1 + 0.01 * self.calls)


@dataclasses.dataclass(frozen=True)
class Turned(Penalty):
    """With a map of the unit vectors that is learned."""

    turn: nn.Module

    def cotangents(self, logits, x, y, draw):
        return self.turn(cotangents.basis(logits))


def weighted(size=3):
    return Defence(jacfast.Frobenius("exact", weights=nn.Parameter(torch.ones(size))), 0.1)


def turned():
    torch.manual_seed(3)
    return Defence(Turned(nn.Linear(3, 3, bias=False)), 0.1)


def sgd(*owners):
    return torch.optim.SGD([p for owner in owners for p in owner.parameters()], 0.1)


@pytest.mark.parametrize("make", [Headed, weighted, turned])
@pytest.mark.parametrize("how", ["lr", "optimizer"])
def test_what_a_loss_learns_is_in_the_optimizer(make, how):
    """Else it would stay as it began, without a word."""
    (model, x, y), loss = problem(), make()
    given = {"epochs": 1, "batch_size": 8, "loss": loss}
    options = {"lr": 0.1} if how == "lr" else {"optimizer": sgd(model)}
    with pytest.raises(ValueError, match=r"optimizer must have what the loss learns .*; it lacks "):
        fit(model, x, y, **given, **options)
    learned(loss).requires_grad_(False)
    fit(model, x, y, **given, **options)


def test_an_optimizer_of_another_model_is_refused():
    """It would train nothing: of a copy, say, that was made after the optimizer."""
    model, x, y = problem()
    twin = copy.deepcopy(model)
    given = {"epochs": 1, "batch_size": 8}
    with pytest.raises(ValueError, match="nothing would be trained"):
        fit(twin, x, y, loss=cross_entropy, optimizer=sgd(model), **given)
    loss = Headed()
    before = loss.head.weight.detach().clone()
    fit(twin, x, y, loss=loss, optimizer=sgd(loss), **given)  # a head on what is there
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    assert not torch.equal(loss.head.weight, before)


@pytest.mark.parametrize("make", [Headed, weighted, turned])
def test_resumed_to_the_bit(make, tmp_path):
    def run(file, epochs, resume=False):
        (model, x, y), loss = problem(), make()
        own = [*model.parameters(), *learned(loss).parameters()]
        assert len(own) > len([*model.parameters()])
        options = {"optimizer": torch.optim.SGD(own, 0.1, momentum=0.9), "resume": resume}
        fit(model, x, y, epochs=epochs, batch_size=8, loss=loss, save=tmp_path / file, **options)
        return {**model.state_dict(), **learned(loss).state_dict()}

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4, resume=True)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    start = {**problem()[0].state_dict(), **learned(make()).state_dict()}
    assert not any(torch.equal(whole[key], start[key]) for key in whole)


def test_another_loss_is_refused(tmp_path):
    model, x, y = problem()
    given = {"epochs": 1, "batch_size": 8, "save": tmp_path / "run"}
    fit(model, x, y, loss=cross_entropy, optimizer=sgd(model), **given)
    loss = weighted()
    both = sgd(model, learned(loss))
    with pytest.raises(ValueError, match=r"the loss in checkpoint .* missing weights"):
        fit(model, x, y, loss=loss, optimizer=both, resume=True, **given)


@pytest.mark.parametrize("where", ["closure", "plain tensor of the penalty"])
def test_parameters_of_nobody_are_refused(where, tmp_path):
    """By several processes each would have gone its own way, and no checkpoint had them."""
    model, x, y = problem()
    own = torch.ones(3, requires_grad=True)
    loss = Defence(jacfast.Frobenius(weights=own), 0.1)
    if where == "closure":
        own = nn.Parameter(torch.ones(3))
        loss = lambda net, xb, yb: F.cross_entropy(net(xb) * own, yb)  # noqa: E731
    groups = [{"params": list(model.parameters())}, {"params": [own]}]
    optimizer = torch.optim.SGD(groups, 0.1)
    before = [p.detach().clone() for p in model.parameters()]
    given = {"epochs": 1, "batch_size": 8, "loss": loss, "optimizer": optimizer}
    with pytest.raises(ValueError, match=r"optimizer must have parameters of .* shape \[3\]"):
        fit(model, x, y, save=tmp_path / "run", **given)
    assert all(map(torch.equal, before, model.parameters()))
    fit(model, x, y, **given)  # alone, and not to be resumed
    assert not torch.equal(own, torch.ones(3))
