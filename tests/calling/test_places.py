"""What a model keeps deep inside changes as by one call, whatever the step takes of passes."""

import copy
import random
import types
from collections import Counter, OrderedDict, defaultdict, deque
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from jacfast import Frobenius, forward_with_penalty
from jacfast.calling import State
from jacfast.calling.places import MANY


class Meter:
    """An average as trainings have it, in an object of its own."""

    def __init__(self) -> None:
        self.count, self.values, self.inner = 0, [], {"sum": torch.zeros(2)}


class Slotted:
    """An object without a dictionary, of which one slot is empty."""

    __slots__ = ("count", "last")

    def __init__(self) -> None:
        self.count = 0


class Keeping(nn.Module):
    """Writes to one thing in every call."""

    def __init__(self, write) -> None:
        super().__init__()
        self.layer, self.write = nn.Linear(3, 3), write
        self.nested = {"a": [], "b": {"c": [0]}}
        self.meter, self.space = Meter(), types.SimpleNamespace(number=0)
        self.slotted = Slotted()
        self.array, self.tensors = np.zeros(2), [torch.zeros(2)]
        self.ordered, self.counter = OrderedDict(mean=torch.zeros(2)), Counter()
        self.default, self.bytes, self.queue = defaultdict(list), bytearray(), deque([[1]])
        self.pair, self.names = ([], {}), {"x"}
        self.stats, self.moments = (torch.zeros(2), (np.zeros(2), 0)), Moments(torch.zeros(2), [])
        self.largest, self.held = torch.zeros(2, 2).max(0), [(torch.zeros(2),)]
        self.tensor_set, self.frozen = {torch.zeros(2)}, frozenset([torch.zeros(2)])
        self.named, self.sources = Pair(torch.zeros(2), 1), sources()
        self.rows, self.table = Rows([1]), Table(a=1)

    def forward(self, x):
        self.write(self)
        return self.layer(x)


def replace(model: Keeping) -> None:
    model.meter = copy.deepcopy(model.meter)
    model.meter.count += 1


WRITES = {
    "an attribute of a list": lambda m: setattr(m.rows, "count", m.rows.count + 1),
    "a list in an attribute of a dict": lambda m: m.table.seen.append(1),
    "a tensor in an attribute of a dict": lambda m: m.table.sum.add_(1),
    "an attribute of a tuple": lambda m: setattr(m.named, "name", m.named.name + "s"),
    "a list in a dict": lambda m: m.nested["a"].append(1),
    "a list in a dict in a dict": lambda m: m.nested["b"]["c"].append(1),
    "a number of an object": lambda m: setattr(m.meter, "count", m.meter.count + 1),
    "a list of an object": lambda m: m.meter.values.append(1.0),
    "a tensor in an object": lambda m: m.meter.inner["sum"].add_(1),
    "an object in place of another": replace,
    "a slot": lambda m: setattr(m.slotted, "count", m.slotted.count + 1),
    "an empty slot": lambda m: setattr(m.slotted, "last", m.slotted.count),
    "a namespace": lambda m: setattr(m.space, "number", m.space.number + 1),
    "an array": lambda m: np.add(m.array, 1, out=m.array),
    "a tensor in a list": lambda m: m.tensors[0].add_(1),
    "a tensor in place of another in a list": lambda m: m.tensors.__setitem__(0, torch.ones(2)),
    "a tensor in a dict": lambda m: m.ordered["mean"].add_(1),
    "a counter": lambda m: m.counter.update("x"),
    "a list that is made": lambda m: m.default["new"].append(1),
    "bytes": lambda m: m.bytes.append(1),
    "a list in a queue": lambda m: m.queue[0].append(1),
    "a list in a tuple": lambda m: m.pair[0].append(1),
    "a set": lambda m: m.names.add(str(len(m.names))),
    "a tensor in a tuple": lambda m: m.stats[0].add_(1),
    "an array in a tuple": lambda m: np.add(m.stats[1][0], 1, out=m.stats[1][0]),
    "a tensor in a named tuple": lambda m: m.moments.mean.add_(1),
    "a tensor in a tuple of PyTorch's": lambda m: m.largest.values.add_(1),
    "a tensor in a tuple of the user's": lambda m: m.named[0].add_(len(m.named.name)),
    "a tensor in a tuple in a list": lambda m: m.held[0][0].add_(1),
    "a tensor in a set": lambda m: next(iter(m.tensor_set)).add_(1),
    "a tensor in a frozen set": lambda m: next(iter(m.frozen)).add_(1),
    "a generator": lambda m: torch.rand(1, generator=m.sources["torch"]),
    "a generator of NumPy": lambda m: m.sources["numpy"].normal(),
    "a generator of NumPy's bits": lambda m: m.sources["bits"].random_raw(),
    "an older one": lambda m: m.sources["older"][0].normal(),
    "one of Python": lambda m: m.sources["python"].gauss(0, 1),
}


class Pair(tuple):
    """A tuple that is made in a way of its own, and has an attribute."""

    def __new__(cls, first, second):
        return super().__new__(cls, (first, second))

    def __init__(self, *values):
        self.name = "pair"


class Rows(list):
    """A list with an attribute."""

    count = 0


class Table(dict):
    """A dictionary with attributes."""

    def __init__(self, **entries) -> None:
        super().__init__(entries)
        self.seen, self.sum = [], torch.zeros(2)


class Moments(NamedTuple):
    """Two moments by their names."""

    mean: torch.Tensor
    others: list


def sources() -> dict:
    """Return sources of random numbers, each at its beginning."""
    numpy = {"numpy": np.random.default_rng(0), "bits": np.random.PCG64(0)}
    older = np.random.RandomState(0)
    return numpy | {"older": (older,), "torch": torch.Generator(), "python": random.Random(0)}


def drawn(found: dict) -> list:
    """Return what sources would draw next."""
    found = copy.deepcopy({name: one for name, one in found.items() if name != "torch"}) | {
        "torch": torch.Generator().set_state(found["torch"].get_state())
    }
    values = [found["numpy"].normal(), found["bits"].random_raw(), found["older"][0].normal()]
    return [*values, found["python"].gauss(0, 1), torch.rand(1, generator=found["torch"]).item()]


def held(model: Keeping) -> str:
    parts = [model.nested, vars(model.meter), model.space, model.array, model.tensors]
    parts += [model.ordered, model.counter, model.default, model.bytes, model.queue, model.pair]
    parts += [model.stats, model.moments, model.largest, model.held, model.tensor_set, model.frozen]
    parts += [model.named, model.named.name, model.rows.count, vars(model.table)]
    parts += [getattr(model.slotted, name, "empty") for name in Slotted.__slots__]
    return repr([*parts, drawn(model.sources), sorted(model.names)])


EACH = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
OPTIONS = {
    "at": {"at": torch.ones(4, 3)},
    "precision": {"precision": torch.bfloat16},
    "traced": {"compiled": "traced"},
    "traced, at": {"compiled": "traced", "at": torch.ones(4, 3)},
}


@pytest.mark.filterwarnings("ignore:forward_with_penalty runs eager")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@EACH
def test_a_step_writes_as_one_call_does(write, options):
    model, once = Keeping(write), Keeping(write)
    x = torch.rand(4, 3)
    for _ in range(2):
        once(x)
        forward_with_penalty(model, x, **options)
        assert held(model) == held(once)


@EACH
def test_a_batch_is_not_cut_for_a_model_that_writes(write):
    model, before = Keeping(write), held(Keeping(write))
    with pytest.raises(ValueError, match="chunk_size must be the whole batch"):
        forward_with_penalty(model, torch.rand(4, 3), chunk_size=2)
    assert held(model) == before


@EACH
def test_what_was_there_is_there_again(write):
    model, x = Keeping(write), torch.rand(4, 3)
    objects = [id(value) for value in vars(model).values()]
    state = State(model)
    assert state.changed() is None
    assert state.exchanged() is None
    model(x)
    after = held(model)
    with state.again():
        assert held(model) == held(Keeping(write))
        model(x)
        assert held(model) == after
    assert held(model) == after
    if write is not replace:
        assert [id(value) for value in vars(model).values()] == objects


@pytest.mark.parametrize(
    "options",
    [{"at": torch.ones(4, 3)}, {"chunk_size": 2, "penalty": Frobenius(subsample=0.5)}],
    ids=["at", "chunks"],
)
@pytest.mark.parametrize("own", [True, False])
def test_the_generator_of_the_penalty_goes_on_although_the_model_holds_it(options, own):
    model, x = Keeping(lambda m: None), torch.rand(4, 3)
    model.source = torch.Generator() if own else torch.default_generator
    options = options | {"generator": model.source} if own else options
    values = {forward_with_penalty(model, x, **options)[1].item() for _ in range(3)}
    assert len(values) == 3


def test_a_source_that_has_no_state_is_left_alone():
    model, x = Keeping(lambda m: m.system.random()), torch.rand(4, 3)
    model.system = random.SystemRandom()
    forward_with_penalty(model, x, at=x)
    assert State(model).changed() is None


def test_data_are_not_looked_into():
    """A list of samples may be long: its entries stay as they are."""
    model = Keeping(lambda m: None)
    model.data = [[i] for i in range(MANY + 1)]
    state = State(model)
    model.data[0].append(1)
    assert state.changed() is None
    model.data.append([0])
    assert state.changed() == "data of a Keeping"
