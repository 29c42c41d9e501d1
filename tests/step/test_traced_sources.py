"""Whatever a call draws, from whichever source, a recorded step draws what the eager one does."""

import dataclasses
import itertools
import random
import types

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jacfast import Frobenius, forward_with_penalty
from tests.step.networks import build
from tests.step.steps import assert_same, fast
from tests.step.tracing import assert_traced


class Net(nn.Module):
    """A linear layer of x and of what is drawn from a source."""

    at_class = None

    def __init__(self, draw) -> None:
        super().__init__()
        self.last, self.draw, self.source = nn.Linear(6, 5), draw, None

    def forward(self, x: Tensor, source=None) -> Tensor:
        return self.last(x * self.draw(self, source)).tanh()


@dataclasses.dataclass
class Holder:
    source: object


@dataclasses.dataclass(slots=True)
class Slotted:
    source: object


def numbers():
    yield from itertools.count(1)


SOURCES = {
    "a Generator": (lambda: np.random.default_rng(0), lambda s: s.standard_normal()),
    "a RandomState": (lambda: np.random.RandomState(0), lambda s: s.rand()),
    "a bit generator": (lambda: np.random.PCG64(0), lambda s: np.random.Generator(s).random()),
    "a Random": (lambda: random.Random(0), lambda s: s.gauss(0, 1)),
    "a count": (lambda: itertools.count(1), next),
    "a generator function": (numbers, next),
    "a method of a Generator": (lambda: np.random.default_rng(0).random, lambda s: s()),
    "a method of a Random": (lambda: random.Random(0).random, lambda s: s()),
    "Python's method of one": (lambda: random.Random(0).uniform, lambda s: s(0, 1)),
    "a method of a count": (lambda: itertools.count(1).__next__, lambda s: s()),
    "a list's iterator": (lambda: iter([1, 2, 3, 4, 5, 6]), next),
    "the system's": (random.SystemRandom, lambda s: 1 + 0 * s.random()),
}
PLACES = {
    "an attribute": (lambda m, s: setattr(m, "source", s), lambda m, s: m.source),
    "a list": (lambda m, s: setattr(m, "source", [s]), lambda m, s: m.source[0]),
    "an object": (lambda m, s: setattr(m, "source", Holder(s)), lambda m, s: m.source.source),
    "slots": (lambda m, s: setattr(m, "source", Slotted(s)), lambda m, s: m.source.source),
    "a namespace": (
        lambda m, s: setattr(m, "source", types.SimpleNamespace(one=s)),
        lambda m, s: m.source.one,
    ),
    "the class": (lambda m, s: setattr(type(m), "at_class", s), lambda m, s: m.at_class),
    "an argument": (lambda m, s: None, lambda m, s: s),
}


def found(source: str, place: str, **options) -> list[Tensor]:
    """Return what three calls give for a new model and a new source."""
    torch.manual_seed(0)
    make, draw = SOURCES[source]
    put, get = PLACES[place]
    kind = type("Net", (Net,), {})
    model, one = kind(lambda m, s: draw(get(m, s))).double(), make()
    put(model, one)
    given = {"kwargs": {"source": one}} if place == "an argument" else {}
    x, numbers = torch.randn(4, 6).double(), []
    for _ in range(3):
        logits, value = forward_with_penalty(model, x, penalty=Frobenius(), **given, **options)
        numbers += [logits.detach(), value.detach()]
    return numbers


def assert_eager(source: str, place: str) -> None:
    with pytest.warns(UserWarning, match=r"runs eager, and not compiled=.*(random|iterator)"):
        got = found(source, place, compiled="traced")
    assert_same(got, found(source, place))


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_of_the_model_runs_eager(source):
    assert_eager(source, "an attribute")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("source", ["a Generator", "a count"])
def test_it_is_found_wherever_it_is(place, source):
    assert_eager(source, place)


@pytest.mark.parametrize("place", ["an attribute", "a list", "an object", "slots"])
@pytest.mark.parametrize(
    "source",
    [
        *("a Generator", "a RandomState", "a Random", "a bit generator"),
        *("a method of a Generator", "a method of a Random", "Python's method of one"),
    ],
)
def test_a_second_pass_draws_the_same(source, place):
    """With x as the other point, both passes draw the same: the penalty is that of one pass."""
    torch.manual_seed(0)
    x = torch.randn(4, 6).double()
    got = found(source, place, at=x)
    want = found(source, place)
    assert_same(got[::2], want[::2])  # the logits: the source has moved as by one call


def test_a_source_that_is_not_drawn_from():
    torch.manual_seed(0)
    model = Net(lambda m, s: 2.0).double()
    model.source = [np.random.default_rng(0), random.Random(0)]
    x = torch.randn(4, 6).double()
    for _ in range(2):
        want = fast(model, x, None, Frobenius("exact"))
        assert_same(fast(model, x, None, Frobenius("exact"), compiled="traced"), want)
        model.source[0].random()
    assert_traced(model, 1)


GENERATORS = {
    "none": lambda: None,
    "the default one": lambda: torch.default_generator,
    "an own one": lambda: torch.Generator().manual_seed(0),
}


@pytest.mark.parametrize("second", GENERATORS)
@pytest.mark.parametrize("first", GENERATORS)
@pytest.mark.parametrize("subsample", [1, 0.5])
def test_a_plan_is_of_one_kind_of_generator(first, second, subsample):
    """Whichever comes first; with dropout, which draws from the default one."""
    torch.manual_seed(0)
    model, x, y = build("tutorial")
    penalty = Frobenius(subsample=subsample)
    found = {None: [], "traced": []}
    for compiled, numbers in found.items():
        for kind in (first, second, second, first):
            torch.manual_seed(1)
            generator = GENERATORS[kind]()
            got = fast(model, x, y, penalty, generator=generator, compiled=compiled)
            numbers += [*(one.detach() for one in got), torch.rand(1)]
    assert_same(found["traced"], found[None])
    assert_traced(model, 1 if first == second else 2)
