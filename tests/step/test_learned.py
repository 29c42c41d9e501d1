"""What a penalty has learned, beside the model, has its gradient in every kind of step."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import Frobenius, InputGradient, Spectral, WithPenalty, forward_with_penalty, penalised
from jacfast.penalties import Penalty
from jacfast.step.pending import Pending
from tests.nets import relative_error
from tests.step.steps import LAM, ROUNDING
from tests.step.tracing import assert_traced

W = torch.tensor([1.0, 0.5, 2.0]).double()


@dataclasses.dataclass(frozen=True)
class Softened(Penalty):
    """Its cotangents are the probabilities at a learned temperature, which is no field."""

    def cotangents(self, logits, x, y, draw):
        return (logits / self.held["temperature"].exp()).softmax(1)[None]


@dataclasses.dataclass(frozen=True)
class Towards(Penalty):
    """The squared distance of each J^T v from a learned target: its rho has a parameter."""

    target: Any = None

    def cotangents(self, logits, x, y, draw):
        return torch.ones_like(logits)[None]

    def measure(self, g: Tensor) -> Tensor:
        return (g - self.target).square().sum(1)


@dataclasses.dataclass(frozen=True)
class Scaled(Frobenius):
    """Of random vectors whose length is learned."""

    length: Any = None

    def cotangents(self, logits, x, y, draw):
        return super().cotangents(logits, x, y, draw) * self.length.exp()


def softened(w, **more):
    penalty = Softened(**more)
    object.__setattr__(penalty, "held", {"temperature": w})
    return penalty


KINDS = {
    "weights": (lambda w, **more: Frobenius("exact", weights=w, **more), W),
    "computed weights": (lambda w, **more: Frobenius("exact", weights=w.exp(), **more), W),
    "temperature": (softened, W[0]),
    "target": (lambda w, **more: Towards(target=w, **more), torch.linspace(0, 1, 6).double()),
    "length": (lambda w, **more: Scaled(2, length=w, **more), W[:1]),
}
WAYS = {
    "as it is": {},
    "chunks": {"chunk_size": 2},
    "a layer": {"layer": "2"},
    "elsewhere": {"at": 0.5},
    "traced": {"compiled": "traced"},
    "a generator, traced": {"compiled": "traced", "generator": 3},
    "each sample": {"reduction": "none"},
    "each sample, chunks": {"reduction": "none", "chunk_size": 2},
    "a part": {"subsample": 0.5, "generator": 3},
    "a part, chunks": {"subsample": 0.5, "generator": 3, "chunk_size": 1},
}


class Own(nn.Sequential):
    """Of a class that is not known, so that it is watched."""

    def forward(self, x):
        return super().forward(x)


def build(activation: str, kind: type = nn.Sequential):
    torch.manual_seed(0)
    layers = (nn.Linear(6, 5), getattr(nn, activation)(), nn.Linear(5, 3))
    return kind(*layers).double(), torch.randn(4, 6).double(), torch.arange(4) % 3


def wanted(model, x, y, w, make, way: dict):
    """Return the gradients of a step by plain autograd, of all parameters and of w."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    at = leaf if "at" not in way else (leaf * way["at"]).detach().requires_grad_()
    source = torch.Generator().manual_seed(way["generator"]) if "generator" in way else None
    torch.manual_seed(1)
    if way.get("subsample"):
        chosen = torch.randperm(len(x), generator=source)[: len(x) // 2]
        at, y_at = x[chosen].requires_grad_(), y[chosen]
    else:
        y_at = y
    value = make(w, reduction=way.get("reduction", "mean"))(model(at), at, y_at, generator=source)
    return of_loss(model, logits, value, y, w)


def of_loss(model, logits, value, y, w):
    each = torch.linspace(0.5, 1, len(value)).double() if value.dim() else 1.0
    loss = F.cross_entropy(logits, y) + LAM * (each * value).sum()
    own = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(loss, [*own, w], materialize_grads=True)


def found(model, x, y, w, make, way: dict):
    fields = {k: v for k, v in way.items() if k in ("reduction", "subsample")}
    options = {k: v for k, v in way.items() if k not in fields}
    if "at" in way:
        options["at"] = x * way["at"]
    if "generator" in way:
        options["generator"] = torch.Generator().manual_seed(way["generator"])
    torch.manual_seed(1)
    logits, value = forward_with_penalty(model, x, y, penalty=make(w, **fields), **options)
    return of_loss(model, logits, value, y, w)


def assert_same(got, want):
    assert all(relative_error(one, other) < ROUNDING for one, other in zip(got, want, strict=True))
    assert want[-1].any()


@pytest.mark.filterwarnings("ignore:.*runs eager")
@pytest.mark.parametrize("network", [("ReLU", nn.Sequential), ("Tanh", Own)], ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_has_its_gradient(kind, way, network, size):
    (make, value), (model, x, y) = KINDS[kind], build(*network)
    w = value.clone().requires_grad_()
    want = wanted(model, x, y, w, make, WAYS[way])
    for _ in range(2):  # the second time, what is remembered
        assert_same(found(model, x, y, w, make, WAYS[way]), want)


@pytest.mark.parametrize("kind", ["weights", "target", "length"])
def test_it_is_recorded(kind, never_eager):
    (make, value), (model, x, y) = KINDS[kind], build("ReLU")
    for shift in (0, 1):
        w = (value + shift).requires_grad_()
        want = wanted(model, x, y, w, make, {})
        assert_same(found(model, x, y, w, make, {"compiled": "traced"}), want)
    assert_traced(model, 1)


@pytest.mark.parametrize("kind", ["weights", "target", "temperature"])
def test_it_alone_is_learned(kind, size):
    """Of a model whose parameters are not."""
    (make, value), (model, x, y) = KINDS[kind], build("ReLU")
    model.requires_grad_(False)
    w = value.clone().requires_grad_()
    (want,) = wanted(model, x, y, w, make, {})
    for way in ("as it is", "chunks", "each sample"):
        if way == "each sample":
            (want,) = wanted(model, x, y, w, make, WAYS[way])
        assert_same(found(model, x, y, w, make, WAYS[way]), (want,))


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_a_parameter_of_the_model(chunk_size, size):
    """Which a penalty has, too, and shares among its projections."""
    model, x, y = build("ReLU")
    model.scale = nn.Parameter(W[:1].clone())
    make = KINDS["length"][0]
    want = wanted(model, x, y, model.scale, make, {})[:-1]
    got = found(model, x, y, model.scale, make, {"chunk_size": chunk_size})[:-1]
    assert_same(got, want)


@pytest.mark.parametrize("way", ["module", "context"])
def test_the_other_ways(way, size):
    model, x, y = build("Tanh")
    w = W.clone().requires_grad_()
    want = wanted(model, x, y, w, KINDS["weights"][0], {})
    penalty = Frobenius("exact", weights=w)
    if way == "module":
        logits, value = WithPenalty(model, penalty)(x)
    else:
        with penalised(model, penalty=penalty, chunk_size=2) as held:
            logits = model(x)
        value = held.penalty
    assert_same(of_loss(model, logits, value, y, w), want)


def test_what_is_computed_for_it_outside_is_used_outside():
    """The graph of weights that are computed stays: here they are in the loss as well."""
    model, x, _ = build("ReLU")
    theta = W.clone().requires_grad_()
    got = []
    for way in ("plain", "chunks"):
        w = theta.exp()
        penalty = Frobenius("exact", weights=w)
        if way == "plain":
            leaf = x.clone().requires_grad_()
            value = penalty(model(leaf), leaf)
        else:
            value = forward_with_penalty(model, x, penalty=penalty, chunk_size=2)[1]
        got.append(torch.autograd.grad(value + w.log().square().sum(), theta))
    assert_same(*got)


def test_without_gradients_there_is_none_to_lose():
    model, x, _ = build("ReLU")
    w = W.clone().requires_grad_()
    with torch.no_grad():
        value = forward_with_penalty(model, x, penalty=Frobenius("exact", weights=w))[1]
    assert not value.requires_grad


def test_one_with_hooks_is_refused():
    model, x, _ = build("ReLU")
    w = W.clone().requires_grad_()
    w.register_hook(lambda g: g)
    text = r"no gradient hooks.*; one of the penalty's, of shape \[3\], has one"
    with pytest.raises(RuntimeError, match=text):
        forward_with_penalty(model, x, penalty=Frobenius("exact", weights=w))


@pytest.mark.parametrize("penalty", [Frobenius(2), InputGradient(), Spectral()])
def test_other_penalties_have_learned_nothing(penalty, monkeypatch):
    model, x, y = build("Tanh")
    seen, learn = [], Pending.learn

    def look(self, *made):
        learn(self, *made)
        seen.append((self.learned, len(self.parameters)))

    monkeypatch.setattr(Pending, "learn", look)
    forward_with_penalty(model, x, y, penalty=penalty)
    assert set(seen) == {(False, 4)}


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"compiled": "traced"}], ids=str)
def test_weights_that_fall_below_0_are_refused(options, size):
    """They would count as 0 from then on, without a gradient that leads back."""
    model, x, _ = build("ReLU")
    w = nn.Parameter(W.clone())
    penalty = Frobenius("exact", weights=w)
    w.data[1] = -0.5
    refused = pytest.raises(ValueError, match=r"weights must be .* >= 0; got tensor.*-0.5")
    with refused:
        forward_with_penalty(model, x, penalty=penalty, **options)
    leaf = x.clone().requires_grad_()
    with refused:
        penalty(model(leaf), leaf)


class Above(nn.Module):
    def forward(self, raw):
        return F.softplus(raw)


@pytest.mark.filterwarnings("ignore:.*runs eager")
@pytest.mark.parametrize("compiled", [None, "traced"])
def test_a_parametrization_keeps_weights_above_0(compiled, size):
    model, x, y = build("Tanh")
    pair = WithPenalty(model, Frobenius("exact", weights=nn.Parameter(W.clone())))
    nn.utils.parametrize.register_parametrization(pair.learned, "weights", Above())
    raw = pair.learned.parametrizations.weights.original
    raw.data -= 3
    want = wanted(model, x, y, raw, lambda w, **_: Frobenius("exact", weights=F.softplus(w)), {})
    logits, value = pair(x, compiled=compiled)
    assert_same(of_loss(model, logits, value, y, raw), want)
