"""A model that writes to its arguments, as to a cache of tokens: as by one call, however many."""

import contextlib
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


@contextlib.contextmanager
def unchanged(past):
    tokens, calls = copy.deepcopy(held(past))
    yield
    assert torch.equal(held(past)[0], tokens)
    assert held(past)[1] == calls


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
    want, once = plain(model, x, past()), past()
    model(x, once)
    tokens, calls = held(once)
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
        assert torch.equal(held(mine)[0], tokens)
        assert held(mine)[1] == calls


def test_a_batch_is_not_cut(given):
    model, x, past = given
    mine = past()
    words = r"when it is called, by (argument|a tensor)"
    with unchanged(mine), pytest.raises(ValueError, match=words):
        forward_with_penalty(model, x, penalty=EXACT, args=(mine,), chunk_size=2)


def test_attacks_call_it_as_it_was_given(given):
    model, x, past = given
    mine = past()
    with unchanged(mine):
        got = jacfast.deepfool(model, x, kwargs={"past": mine})
    want = jacfast.deepfool(lambda x: model(x, past()), x)
    assert torch.equal(got.r, want.r)
    rows = jacfast.jacobian(model, x, args=(mine,))
    fresh = torch.autograd.functional.jacobian(lambda z: model(z, past()).sum(0), x)
    assert relative_error(rows, fresh.movedim(1, 0)) < ROUNDING


class Scaled(nn.Module):
    """A network whose outputs are scaled by rows that a dictionary holds."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.rates = dict.fromkeys(self.parameters(), 1.0)  # as an optimiser has them

    def forward(self, x, held):
        return self.last((self.first(x) * held["rows"]).tanh())


@pytest.mark.parametrize("options", [{}, {"chunk_size": 1}, {"chunk_size": 3}])
@pytest.mark.parametrize("trained", [False, True])
def test_rows_in_a_dictionary_go_along_in_a_second_pass(options, trained):
    torch.manual_seed(0)
    model, x, at = Scaled().double(), torch.randn(5, 3).double(), torch.randn(5, 3).double()
    rows = torch.randn(5, 4).double().requires_grad_(trained)
    leaf = at.clone().requires_grad_()
    want = EXACT(model(leaf, {"rows": rows}), leaf)
    logits, value = forward_with_penalty(
        model, x, penalty=EXACT, args=({"rows": rows},), at=at, **options
    )
    assert relative_error(value.detach(), want.detach()) < ROUNDING
    assert relative_error(logits.detach(), model(x, {"rows": rows}).detach()) < ROUNDING


class Recurrent(nn.Module):
    """A cell that keeps its state, and how often it was called, in what it is given."""

    def __init__(self):
        super().__init__()
        self.cell, self.last = nn.GRUCell(3, 4), nn.Linear(4, 2)

    def forward(self, x, state):
        h = self.cell(x, state["h"])
        state["h"] = h.detach()
        state["inner"].append(state["h"])
        return self.last(h)


@pytest.mark.parametrize("options", [{}, {"compiled": "traced"}, {"at": True}])
@pytest.mark.filterwarnings("ignore:forward_with_penalty runs eager")
def test_a_dictionary_with_a_graph_gets_what_is_written(options):
    torch.manual_seed(0)
    model, inputs = Recurrent().double(), torch.randn(3, 4, 3).double()
    start = torch.zeros(4, 4).double().requires_grad_()
    trained = [*model.parameters(), start]

    def loop(call):
        state, total = {"h": start, "inner": []}, 0.0
        for x in inputs:
            logits, value = call(x, state)
            total = total + value + logits.sum()
        assert len(state["inner"]) == len(inputs)
        return torch.cat([g.flatten() for g in torch.autograd.grad(total, trained)])

    def by_hand(x, state):
        again, leaf = {"h": state["h"], "inner": []}, x.clone().requires_grad_()
        return model(x, state), EXACT(model(leaf, again), leaf)

    def ours(x, state):
        further = options | ({"at": x.clone()} if "at" in options else {})
        return forward_with_penalty(model, x, penalty=EXACT, args=(state,), **further)

    assert relative_error(loop(ours), loop(by_hand)) < ROUNDING
    state = {"h": start, "inner": []}
    with pytest.raises(ValueError, match=r"when it is called, by (what it writes|argument)"):
        forward_with_penalty(model, inputs[0], args=(state,), chunk_size=2)


def test_attacks_write_to_no_rows_of_a_dictionary():
    """Also where only some samples are called, and in place."""
    torch.manual_seed(0)
    inner = Cached().double()

    def model(x, held):
        held["rows"].mul_(0.7)
        return inner.last((inner.first(x) + held["rows"]).tanh())

    x, rows = torch.randn(40, 3).double(), torch.randn(40, 4).double()
    held = {"rows": rows.clone()}
    first = jacfast.deepfool(model, x, args=(held,))
    assert torch.equal(held["rows"], rows)
    again = jacfast.deepfool(model, x, args=(held,), batch_size=7)
    assert torch.equal(held["rows"], rows)
    assert relative_error(again.r, first.r) < ROUNDING
