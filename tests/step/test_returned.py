"""All that a model returns, of a batch that passes in chunks: joined, or refused in words."""

import dataclasses
import re

import pytest
import torch
from torch import nn

from jacfast import Frobenius, WithPenalty, forward_with_penalty, penalised
from tests.nets import relative_error
from tests.step.steps import ROUNDING, gradient

N = 5
EXACT = Frobenius("exact")


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    label: torch.Tensor
    name: str = "output"
    features: tuple = ()


class Net(nn.Module):
    """A linear layer, its output, and what `returns` makes of that, of x and of its features."""

    def __init__(self, returns) -> None:
        super().__init__()
        self.first, self.last, self.returns = nn.Linear(6, 4), nn.Linear(4, 3), returns

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.returns(self.last(h), h, x)


class Mapping(dict):
    """A dictionary of a class of one's own, which pytree takes for a leaf."""


class Easy(dict):
    """A dictionary whose items are attributes, too."""

    def __init__(self, **items) -> None:
        super().__init__(**items)
        self.__dict__.update(items)


@dataclasses.dataclass(slots=True, frozen=True)
class Slots:
    logits: torch.Tensor
    label: torch.Tensor


# What is of samples, whatever has a graph.
JOINED = {
    "a dictionary of its own": lambda z, h, x: Mapping(logits=z, more=[h, h.detach() > 0]),
    "items and attributes": lambda z, h, x: Easy(logits=z),
    "slots": lambda z, h, x: Slots(z, z.detach().argsort(1)),
    "a dictionary": lambda z, h, x: {"logits": z, "label": z.argmax(1)},
    "a tuple": lambda z, h, x: (z.sum(1), {"h": [h, h.detach().half()]}, z.argmax(1) > 0),
    "the same twice": lambda z, h, x: {"logits": z, "again": z, "labels": [z.argmax(1)] * 2},
    "an object": lambda z, h, x: Output(z, z.detach().argsort(1)),
    "an object in a list": lambda z, h, x: {"logits": z, "more": [Output(h, h.detach() > 0)]},
    "a loss of each": lambda z, h, x: {"logits": z, "loss": z.square().sum(1), "p": 2.0},
    "nothing": lambda z, h, x: {"logits": z, "loss": None},
    "what it was given": lambda z, h, x: {"logits": z, "x": x.detach(), "seen": x},
}


def build(returns):
    torch.manual_seed(0)
    return Net(returns).double(), torch.randn(N, 6).double()


def call(model, x, penalty=EXACT, **options):
    with penalised(model, penalty=penalty, **options) as held:
        returned = model(x)
    return returned, held.penalty


def leaves(returned) -> list[torch.Tensor]:
    """Return all tensors of something returned, in their order."""
    if isinstance(returned, torch.Tensor):
        return [returned]
    if isinstance(returned, Output | Slots):
        returned = {
            field.name: getattr(returned, field.name) for field in dataclasses.fields(returned)
        }
    inner = returned.values() if isinstance(returned, dict) else returned
    return [t for one in inner if not isinstance(one, str | float | None) for t in leaves(one)]


def loss_of(returned) -> torch.Tensor:
    """Return a loss of all that has a graph, another for each of it."""
    with_graph = [t for t in leaves(returned) if t.requires_grad]
    return sum((1 + i) * t.sin().sum() for i, t in enumerate(with_graph))


def output_of(name):
    return 0 if name == "a tuple" else None


@pytest.mark.filterwarnings("ignore:.*runs eager.*the model returns a Output")
@pytest.mark.parametrize("share", [1, 0.4])
@pytest.mark.parametrize(
    "options", [{"chunk_size": 2}, {"chunk_size": 3, "compiled": "traced"}, {}], ids=str
)
@pytest.mark.parametrize("name", JOINED)
def test_what_is_of_samples_is_joined(name, options, share):
    model, x = build(JOINED[name])
    leaf = x.clone().requires_grad_()
    want = model(leaf)
    logits = leaves(want)[0]
    part = Frobenius("exact", subsample=share)
    source = torch.Generator().manual_seed(1)
    got, value = call(model, x, part, generator=source, output=output_of(name), **options)
    chosen = torch.randperm(N, generator=source.manual_seed(1))[: 2 if share < 1 else N]
    chosen = chosen if share < 1 else torch.arange(N)
    columns = logits.reshape(N, -1).unbind(1)
    rows = [torch.autograd.grad(z.sum(), leaf, create_graph=True)[0] for z in columns]
    penalty = sum(row[chosen].square().sum() for row in rows) / len(chosen)
    assert type(got) is type(want)
    for one, other in zip(leaves(got), leaves(want), strict=True):
        assert one.dtype == other.dtype
        assert one.requires_grad == other.requires_grad
        assert relative_error(one, other) < ROUNDING
        assert one.shape == other.shape
    assert relative_error(value, penalty) < ROUNDING
    found = gradient(loss_of(got) + value, model)
    assert relative_error(found, gradient(loss_of(want) + penalty, model)) < ROUNDING


SIZES = iter(range(1000))
REFUSED = {
    "a loss": (lambda z, h, x: {"logits": z, "loss": z.sum()}, "shape [] for 2 of the samples"),
    "a loss [1]": (
        lambda z, h, x: {"logits": z, "loss": z.sum()[None]},
        "shape [1] for 2 of the samples",
    ),
    "a state": (lambda z, h, x: (z, h[None]), "shape [1, 2, 4] for 2 of the samples"),
    "a mean that is detached": (
        lambda z, h, x: {"logits": z, "mean": h.detach().mean(0)},
        "shape [4] for 2 of the samples",
    ),
    "an object's loss": (
        lambda z, h, x: Output(z, z.sum()),
        "shape [] for 2 of the samples",
    ),
    "a number": (
        lambda z, h, x: {"logits": z, "loss": float(z.sum())},
        "other things for other samples than rows of tensors",
    ),
    "tensors that are not found": (
        lambda z, h, x: Output(z, z.argmax(1), features=(h,)),
        "other things for other samples",
    ),
    "a list of samples": (
        lambda z, h, x: {"logits": z, "each": list(z.detach())},
        "shape [3] for 2 of the samples",
    ),
    "names of samples": (
        lambda z, h, x: {"logits": z, "each": ["name"] * len(x)},
        "other things for other samples",
    ),
    "other widths": (
        lambda z, h, x: {"logits": z, "pad": h.new_zeros(len(x), next(SIZES))},
        "other things for other samples",
    ),
    "a graph in some": (
        lambda z, h, x: {"logits": z, "h": h if x[0, 0] else h.detach()},
        "other things for other samples",
    ),
}


@pytest.mark.parametrize("way", [None, "traced"])
@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused(name, way, recwarn):
    returns, text = REFUSED[name]
    model, x = build(returns)
    x[:, 0] = torch.arange(N)
    words = "chunk_size must be the whole batch, 5, or None for a model that returns "
    with pytest.raises(ValueError, match=f"{re.escape(words)}.*{re.escape(text)}.*; got 2"):
        call(model, x, output=0 if name == "a state" else None, chunk_size=2, compiled=way)
    for options in ({}, {"chunk_size": N}):
        call(model, x, output=0 if name == "a state" else None, **options)


@pytest.mark.parametrize("returns", ["a dictionary", "nothing"])
def test_of_single_samples_only_logits_are_known_to_be_rows(returns):
    model, x = build(JOINED[returns])
    if returns == "nothing":
        returned, _ = call(model, x, chunk_size=1)
        assert relative_error(returned["logits"], model(x)["logits"]) < ROUNDING
        return
    text = r"returns a tensor of shape \[1\] for one sample, which may be no row of its own.*got 1"
    with pytest.raises(ValueError, match=text):
        call(model, x, chunk_size=1)


@pytest.mark.parametrize("name", ["a loss", "a state", "a number"])
def test_a_second_pass_is_for_the_penalty_alone(name):
    """All that the model returns comes from the first one, on the whole batch."""
    model, x = build(REFUSED[name][0])
    output = 0 if name == "a state" else None
    want, _ = call(model, x, output=output)
    got, value = call(model, x, output=output, at=x, chunk_size=2)
    for one, other in zip(leaves(got), leaves(want), strict=True):
        assert relative_error(one, other) < ROUNDING
    assert value.requires_grad


@pytest.mark.parametrize("name", ["a loss", "a state", "a number"])
def test_who_asks_for_logits_gets_them_from_chunks(name):
    model, x = build(REFUSED[name][0])
    options = {"penalty": EXACT, "output": 0 if name == "a state" else None}
    want = forward_with_penalty(model, x, **options)
    for way in (forward_with_penalty, WithPenalty(model, options.pop("penalty"))):
        given = (model, x) if way is forward_with_penalty else (x,)
        more = {"penalty": EXACT} if way is forward_with_penalty else {}
        for one, other in zip(way(*given, chunk_size=2, **options, **more), want, strict=True):
            assert relative_error(one, other) < ROUNDING


@pytest.mark.parametrize("share", [1, 0.4])
def test_a_model_that_is_not_trained(share):
    """Whose samples have a graph only as far as they are penalised."""
    model, x = build(JOINED["a dictionary"])
    returned, value = call(
        model.requires_grad_(False), x, Frobenius("exact", subsample=share), chunk_size=2
    )
    assert relative_error(returned["logits"], model(x)["logits"]) < ROUNDING
    assert torch.equal(returned["label"], model(x)["label"])
    assert not value.requires_grad


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}])
@pytest.mark.parametrize(
    "pool", [nn.MaxPool1d(2, return_indices=True), nn.AdaptiveMaxPool1d(2, True)]
)
def test_known_layers_that_return_two_tensors(pool, options, size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), pool).double()
    x = torch.randn(40, 1, 6).double()
    got, _ = call(model, x, Frobenius(subsample=0.5), **options)
    for one, other in zip(got, model(x), strict=True):
        assert one.dtype == other.dtype
        assert relative_error(one, other) < ROUNDING
    assert relative_error(forward_with_penalty(model, x)[0], model(x)[0]) < ROUNDING


def test_logits_that_cannot_be_replaced():
    class Deep:
        def __init__(self, z) -> None:
            self.held = [[z]]

        @property
        def logits(self):
            return self.held[0][0]

    model, x = build(lambda z, h, x: Deep(z))
    with pytest.raises(TypeError, match=r"must return its logits where they can be replaced.*Deep"):
        call(model, x)


def test_of_a_whole_batch_what_has_no_graph_is_the_model_s_own():
    """Not a copy: it may be a state that the model writes to."""
    state = torch.zeros(N, 4)
    model, x = Net(lambda z, h, x: {"logits": z, "state": state}), torch.rand(N, 6)
    with penalised(model, penalty=EXACT):
        assert model(x)["state"] is state
