"""Graphs that others come through as well, and parameters that change between call and backward."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from jacfast import Frobenius, forward_with_penalty
from tests.nets import relative_error
from tests.step.steps import ROUNDING

EXACT = Frobenius("exact")


class Conditioned(nn.Module):
    """A network of x and of a condition that it encodes outside of its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

    def encode(self, c):
        return self.encoder(c).tanh()

    def forward(self, x, cond):
        return self.last((x + cond).tanh())


@pytest.fixture
def given():
    """Return the network, x and what is to be encoded."""
    torch.manual_seed(0)
    return Conditioned().double(), torch.randn(5, 4).double(), torch.randn(5, 2).double()


def gradients(loss, model):
    found = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([g.flatten() for g in found])


def penalty_of(model, x, cond):
    x = x.detach().requires_grad_()
    return EXACT(model(x, cond), x)


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"at": 0.1}])
def test_an_argument_with_a_loss_of_its_own(given, options):
    model, x, c = given
    at = x + options["at"] if "at" in options else x
    cond = model.encode(c)
    want = gradients(
        model(x, cond).sum() + penalty_of(model, at, cond) + cond.square().sum(), model
    )
    cond = model.encode(c)
    options = options | ({"at": at} if "at" in options else {})
    logits, value = forward_with_penalty(model, x, penalty=EXACT, kwargs={"cond": cond}, **options)
    got = gradients(logits.sum() + value + cond.square().sum(), model)
    assert relative_error(got, want) < ROUNDING


def test_weights_that_are_computed_once_before_two_calls():
    """Those that the first call computes are its own: a loss beside it is refused in words."""
    torch.manual_seed(0)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 3))
    model, one, two = model.double(), torch.randn(5, 6).double(), torch.randn(4, 6).double()

    def plain(x):
        x = x.clone().requires_grad_()
        logits = model(x)
        return logits.sum() + EXACT(logits, x)

    want = gradients(plain(one) + plain(two) + model(one).square().sum(), model)
    with parametrize.cached():
        assert model[0].weight.requires_grad
        found = [forward_with_penalty(model, x, penalty=EXACT) for x in (one, two)]
        beside = model(one).square().sum()
        loss = sum(logits.sum() + value for logits, value in found) + beside
    assert relative_error(gradients(loss, model), want) < ROUNDING


def test_a_parameter_that_is_frozen_before_the_backward_pass_gets_nothing():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double(),
        torch.randn(5, 6),
    )
    x = x.double()
    logits, value = forward_with_penalty(model, x, penalty=EXACT)
    (logits.sum() + value).backward()
    want = [p.grad for p in model.parameters()]
    model.zero_grad()
    logits, value = forward_with_penalty(model, x, penalty=EXACT)
    model[0].weight.requires_grad_(False)
    (logits.sum() + value).backward()
    assert model[0].weight.grad is None
    for p, g in list(zip(model.parameters(), want, strict=True))[1:]:
        assert relative_error(p.grad, g) < ROUNDING


def test_a_model_that_is_frozen_whole_before_the_backward_pass():
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(5, 6)
    other = torch.ones((), requires_grad=True)
    logits, value = forward_with_penalty(model, x, penalty=EXACT)
    model.requires_grad_(False)
    (logits.sum() + value + 2 * other).backward()
    assert other.grad == 2
    assert all(p.grad is None for p in model.parameters())
