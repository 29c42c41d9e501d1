"""A model that writes to its arguments, as to a cache of tokens: as by one call, however many."""

import copy

import pytest
import torch
from torch import nn

import jacfast
from jacfast import Frobenius, forward_with_penalty, penalised
from tests.nets import relative_error
from tests.step.steps import ROUNDING

EXACT = Frobenius("exact")


class Cache:
    """What was seen before: of each call's own, in a list of objects, and how often."""

    def __init__(self, tokens):
        self.layers, self.calls = [Layer(tokens)], 0


class Layer:
    def __init__(self, tokens):
        self.tokens = tokens


class Cached(nn.Module):
    """A network of all tokens so far; what it is given has one more afterwards."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, past):
        if isinstance(past, torch.Tensor):
            past.add_(1)
            return self.last((self.first(x) * past).tanh())
        holder = past["state"] if isinstance(past, dict) else past
        holder.calls += 1
        layer = holder.layers[0]
        layer.tokens = torch.cat([layer.tokens, torch.ones_like(layer.tokens[:, :1])], 1)
        seen = layer.tokens.mean(1) * holder.calls  # the same for all samples
        return self.last((self.first(x) + seen).tanh())


PASTS = {
    "object": lambda tokens: Cache(tokens),
    "dictionary": lambda tokens: {"state": Cache(tokens)},
    "tensor": lambda tokens: tokens[:, 0].clone(),
}


def held(past):
    if isinstance(past, torch.Tensor):
        return past, 0
    cache = past["state"] if isinstance(past, dict) else past
    return cache.layers[0].tokens, cache.calls


@pytest.fixture(params=PASTS)
def given(request):
    """Return the model, x and what makes the argument anew."""
    torch.manual_seed(0)
    tokens = torch.randn(1, 2, 4).double()
    return Cached().double(), torch.randn(4, 3).double(), lambda: PASTS[request.param](tokens)


def plain(model, x, past):
    x = x.clone().requires_grad_()
    logits = model(x, past)
    value = EXACT(logits, x)
    return logits.detach(), value.detach(), gradients(logits, value, model)


def gradients(logits, value, model):
    found = torch.autograd.grad(logits.square().sum() + value, list(model.parameters()))
    return torch.cat([g.flatten() for g in found])


OPTIONS = {
    "one pass": lambda x: {},
    "at": lambda x: {"at": x.clone()},
    "frozen": lambda x: {"batch_norm": "frozen", "at": x.clone()},
    "traced": lambda x: {"compiled": "traced"},
    "at, traced": lambda x: {"compiled": "traced", "at": x.clone()},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.filterwarnings("ignore:forward_with_penalty runs eager")
def test_it_is_written_to_as_by_one_call(given, options, inside, size):
    model, x, past = given
    want, expected = plain(model, x, past()), held(one := past())
    model(x, one)
    expected = held(one)
    for _ in range(2):
        mine, further = past(), OPTIONS[options](x)
        if inside:
            with penalised(model, penalty=EXACT, **further) as found:
                logits = model(x, mine)
            value = found.penalty
        else:
            logits, value = forward_with_penalty(
                model, x, penalty=EXACT, kwargs={"past": mine}, **further
            )
        got = logits.detach(), value.detach(), gradients(logits, value, model)
        for one, other in zip(got, want, strict=True):
            assert relative_error(one, other) < ROUNDING
        assert torch.equal(held(mine)[0], expected[0])
        assert held(mine)[1] == expected[1]


def test_a_batch_is_not_cut(given):
    model, x, past = given
    mine = past()
    before = copy.deepcopy(held(mine))
    with pytest.raises(ValueError, match=r"changes when it is called, by (argument|a tensor)"):
        forward_with_penalty(model, x, penalty=EXACT, args=(mine,), chunk_size=2)
    assert torch.equal(held(mine)[0], before[0])
    assert held(mine)[1] == before[1]


def test_attacks_call_it_as_it_was_given(given):
    model, x, past = given
    mine = past()
    before = copy.deepcopy(held(mine))
    got = jacfast.deepfool(model, x, kwargs={"past": mine})
    want = jacfast.deepfool(lambda x: model(x, past()), x)
    assert torch.equal(got.r, want.r)
    assert torch.equal(held(mine)[0], before[0])
    assert held(mine)[1] == before[1]
    rows = jacfast.jacobian(model, x, args=(mine,))
    fresh = torch.autograd.functional.jacobian(lambda z: model(z, past()).sum(0), x)
    assert relative_error(rows, fresh.movedim(1, 0)) < ROUNDING
