"""Configurations of every kind: a recorded step follows what is changed in them."""

import argparse
import ctypes
import gc
import mmap
import types
import weakref
from array import array
from collections import deque

import numpy as np
import pytest
import torch

from jacfast import Frobenius
from tests.step.objects import SIMPLE, Frozen, Mixed, Net, Private, Slotted, assert_followed
from tests.step.steps import assert_same, fast
from tests.step.tracing import assert_traced


class Config:
    scale = 1.0


class Table(dict, Config):
    """A dictionary with attributes beside its entries."""


class Row(list, Config):
    pass


class Pair(tuple, Config):
    pass


class Names(set, Config):
    pass


class Kind(Config):
    pass


class Hashed:
    def __init__(self, scale: float) -> None:
        self.scale = scale


def large() -> np.ndarray:
    return np.ones(1 << 13)  # 64 KiB


class OwnArray(np.ndarray):
    pass


TABLE = {"scale": 1.0}
DOUBLE = lambda m: setattr(m.held, "scale", 2.0)  # noqa: E731
# what is held, how it is read, how it is changed
OBJECTS = {
    "slots": (Slotted, SIMPLE, DOUBLE),
    "slots in slots": (
        lambda: Slotted(inner=Slotted()),
        lambda m: m.held.inner.scale,
        lambda m: setattr(m.held.inner, "scale", 2.0),
    ),
    "slots, replaced": (Frozen, SIMPLE, lambda m: setattr(m, "held", Frozen(2.0))),
    "slots of a parent": (Mixed, SIMPLE, DOUBLE),
    "a dictionary beside slots": (
        Mixed,
        lambda m: m.held.more,
        lambda m: setattr(m.held, "more", 2.0),
    ),
    "private slots": (Private, lambda m: m.held.get(), lambda m: m.held.set(2.0)),
    "a class": (lambda: Kind, SIMPLE, DOUBLE),
    "the class of an object": (
        Kind,
        SIMPLE,
        lambda m: setattr(type(m.held), "scale", 2.0),
    ),
    "a set of objects": (
        lambda: {Hashed(1.0)},
        lambda m: sum(one.scale for one in m.held),
        lambda m: m.held.add(Hashed(2.0)),
    ),
    "an object in a set": (
        lambda: {Hashed(1.0)},
        lambda m: sum(one.scale for one in m.held),
        lambda m: setattr(next(iter(m.held)), "scale", 2.0),
    ),
    "a set of tuples": (
        lambda: {(1, 2)},
        lambda m: len(m.held),
        lambda m: m.held.add((2, 3)),
    ),
    "64 KiB": (large, lambda m: m.held[5], lambda m: m.held.__setitem__(5, 2)),
    "a part of an array": (
        lambda: large()[::2],
        lambda m: m.held[5],
        lambda m: m.held.__setitem__(5, 2),
    ),
    "objects of an array": (
        lambda: np.array([Hashed(1.0), 5.0], dtype=object),
        lambda m: m.held[0].scale,
        lambda m: setattr(m.held[0], "scale", 2.0),
    ),
    "a subclass of arrays": (
        lambda: OwnArray((4,), buffer=np.ones(4)),
        lambda m: m.held[1],
        lambda m: m.held.__setitem__(1, 2),
    ),
    "a masked array": (
        lambda: np.ma.ones(4),
        lambda m: m.held.sum(),
        lambda m: m.held.__setitem__(1, np.ma.masked),
    ),
    "the dtype of an array": (
        lambda: np.ones(2),
        lambda m: m.held.view(np.int64)[0] / 2**62,
        lambda m: setattr(m, "held", np.ones(4, np.float32)),
    ),
    "bytes": (
        lambda: bytearray(b"ab"),
        lambda m: m.held[0] / 100,
        lambda m: m.held.__setitem__(0, 2),
    ),
    "numbers": (
        lambda: array("d", [1.0, 2.0]),
        lambda m: m.held[0],
        lambda m: m.held.__setitem__(0, 2.0),
    ),
    "a number of C": (
        lambda: ctypes.c_double(1.0),
        lambda m: m.held.value,
        lambda m: setattr(m.held, "value", 2.0),
    ),
    "a map of memory": (
        lambda: mmap.mmap(-1, 8),
        lambda m: 1 + m.held[0],
        lambda m: m.held.__setitem__(0, 2),
    ),
    "a view of bytes": (
        lambda: memoryview(bytearray(b"ab")),
        lambda m: m.held[0] / 100,
        lambda m: m.held.__setitem__(0, 2),
    ),
    "a proxy of a dictionary": (
        lambda: types.MappingProxyType(TABLE),
        lambda m: m.held["scale"],
        lambda m: TABLE.update(scale=2.0),
    ),
    "arguments of a command": (
        lambda: argparse.Namespace(scale=1.0),
        SIMPLE,
        DOUBLE,
    ),
    "a queue": (
        lambda: deque([1.0]),
        lambda m: m.held[0],
        lambda m: m.held.__setitem__(0, 2.0),
    ),
    "a method": (
        lambda: Private().get,
        lambda m: m.held(),
        lambda m: m.held.__self__.set(2.0),
    ),
    "a method of a list": (
        lambda: [1.0].copy,
        lambda m: m.held()[0],
        lambda m: m.held.__self__.__setitem__(0, 2.0),
    ),
    "the class of a list": (lambda: Row(), SIMPLE, lambda m: setattr(Row, "scale", 2.0)),
}
for _kind in (Table, Row, Pair, Names):
    OBJECTS[f"an attribute of a {_kind.__name__}"] = (
        _kind,
        SIMPLE,
        lambda m: setattr(m.held, "scale", 2.0),
    )


@pytest.fixture(autouse=True)
def as_before():
    TABLE["scale"] = Kind.scale = Row.scale = 1.0


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_an_attribute_holds(kind):
    make, read, change = OBJECTS[kind]
    model = Net(read).double()
    model.held = make()
    assert_followed(model, change)


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_the_class_holds(kind):
    make, read, change = OBJECTS[kind]
    model = type("Own", (Net,), {"held": make()})(read).double()
    del model.held  # the instance's
    if kind in ("slots, replaced", "the dtype of an array"):
        write = change

        def change(m):
            write(m)
            type(m).held = vars(m).pop("held")

    assert_followed(model, change)


def test_a_class_behind_one_of_torch():
    """In the order of the classes nn.Module comes first."""
    mixin = type("Mixin", (), {"scale": 1.0})
    model = type("Own", (Net, mixin), {})(lambda m: m.scale).double()
    assert_followed(model, lambda m: setattr(mixin, "scale", 2.0))


@pytest.mark.parametrize("method", [staticmethod, classmethod])
def test_a_method_of_the_class_that_is_replaced(method):
    one, two = (method(lambda *_, value=value: value) for value in (1.0, 2.0))
    kind = type("Own", (Net,), {"value": one})
    assert_followed(kind(lambda m: m.value()).double(), lambda m: setattr(kind, "value", two))


def test_a_class_that_an_attribute_names():
    kind = type("Own", (Net,), {"scale": 1.0})
    model = kind(lambda m: m.scale).double()
    model.held = model.again = kind
    assert_followed(model, lambda m: setattr(kind, "scale", 2.0))


class Given(Net):
    def forward(self, x, given):
        self.held = None
        return self.last(x).tanh() * float(self.read(given))


@pytest.mark.parametrize("size", [10, 1 << 13])
def test_arrays_among_the_arguments(size):
    """By their numbers: another array of the same ones is no other call."""
    model, x = Given(lambda given: given[5]).double(), torch.randn(4, 6).double()
    values = np.ones(size)
    for i in range(4):
        values[5] = 1 + i // 2
        calls = ({"args": (values,)}, {"args": (values.copy(),), "compiled": "traced"})
        assert_same(*(fast(model, x, None, Frobenius("exact"), **options) for options in calls))
    assert_traced(model, 2)


def test_large_arrays():
    x, values = torch.randn(4, 6).double(), np.ones((1 << 17) + 1)
    model = Net(lambda m: m.held[5]).double()
    model.held = values
    with pytest.warns(UserWarning, match=r"runs eager.*an array of 1048584 bytes, too large"):
        fast(model, x, None, Frobenius(), compiled="traced")
    values.flags.writeable = False
    fast(model, x, None, Frobenius(), compiled="traced")
    assert_traced(model, 1)
    model.held = np.ones((1 << 17) + 2)[:]
    model.held.flags.writeable = False  # but what it shares its memory with can be written to
    with pytest.warns(UserWarning, match=r"runs eager.*an array of 1048592 bytes"):
        fast(model, x, None, Frobenius(), compiled="traced")


@pytest.mark.parametrize("kind", [Slotted, Mixed])
def test_nothing_is_held(kind):
    model, x = Net(lambda m: 1.0).double(), torch.randn(4, 6).double()
    model.held = kind()
    model.held.inner = model
    fast(model, x, None, Frobenius(), compiled="traced")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
