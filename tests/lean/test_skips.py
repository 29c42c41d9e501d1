"""Which input gradients lean layers do not compute, and what they keep alive."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jacfast.lean import TRAINING, Lean, Sink, conv
from tests.lean.sweeps import penalty, pull
from tests.nets import draw


class Products(TorchDispatchMode):
    """Count the matrix products that run inside."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm_.default)
        return func(*args, **(kwargs or {}))


# From the root to the first layer's input, and whether anything but the root is behind that.
WAYS = {
    "itself": (lambda x, p: x, True),
    "flattened": (lambda x, p: x.flatten(1).unflatten(1, x.shape[1:]), True),
    "normalised": (lambda x, p: (x - 0.5) / 2, True),
    "with ReLU": (lambda x, p: torch.relu(x), True),
    "with pooling": (lambda x, p: F.max_pool2d(x, 3, 1, 1), True),
    "in autocast's dtype and back": (lambda x, p: x.bfloat16().double(), True),
    "times a parameter": (lambda x, p: x * p, False),
    "plus a parameter": (lambda x, p: (x.flatten(1) + p).view_as(x), False),
    "after a linear layer": (lambda x, p: F.linear(x, torch.eye(6).double()), False),
}


@pytest.mark.parametrize("wants_root", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_input_gradients_that_nobody_wants(way, wants_root, monkeypatch):
    """Of a convolution on what the root became; every other sweep has them."""
    calls, routine = [], conv._input_gradient
    monkeypatch.setattr(conv, "_input_gradient", lambda *a: calls.append(1) or routine(*a))
    layer, p = nn.Conv2d(2, 3, 3).double(), draw(1).requires_grad_()
    x, sink = draw(4, 2, 6, 6).requires_grad_(), Sink([*layer.parameters(), p])
    sink.begin(x)
    sink.wants_root = wants_root
    before, skips = WAYS[way]
    with Lean(sink, TRAINING):
        y = layer(before(x, p))
    _, g = pull(y, x)
    assert len(calls) == 1
    inputs = [sink.anchor, x] if wants_root else [sink.anchor]
    with sink.mine(collecting=True):
        torch.autograd.grad([penalty(g), y.sum()], inputs, allow_unused=True)
    assert len(calls) == (1 if skips and not wants_root else 2)
    assert sink.gradients.keys() >= set(layer.parameters())


@pytest.mark.parametrize(("wants_root", "products"), [(False, 1), (True, 2)])
def test_the_same_of_a_linear_layer(wants_root, products):
    layer, x = nn.Linear(6, 4).double(), draw(5, 2, 3).requires_grad_()
    sink = Sink(layer.parameters())
    sink.begin(x)
    sink.wants_root = wants_root
    with Lean(sink, TRAINING):
        y = layer(x.flatten(1))
    inputs = [sink.anchor, x] if wants_root else [sink.anchor]
    with Products() as seen, sink.mine(collecting=True):
        torch.autograd.grad(y.sum(), inputs, allow_unused=True)
    assert seen.count == products


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("swept", [True, False])
def test_nothing_outlives_the_last_reference(swept, root):
    """Neither before nor after the sweeps, and not only once cycles are looked for."""
    model = nn.Sequential(
        nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Unflatten(1, (2, 3))
    ).double()
    gc.collect()
    gc.disable()
    try:
        x, sink = draw(5, 6).requires_grad_(), Sink(model.parameters())
        if root:
            sink.begin(x)
        with sink.mine():
            with Lean(sink, TRAINING):
                y = F.max_pool2d(model(x)[None], 2)
            v, g = pull(y, x)
        p, left = penalty(g), [weakref.ref(x), weakref.ref(sink)]
        if swept:
            with sink.mine(collecting=True):
                torch.autograd.grad([p, y.sum()], [sink.anchor], allow_unused=True)
        del x, sink, y, v, g, p
        assert [one() is None for one in left] == [True, True]
    finally:
        gc.enable()
