"""Which input gradients lean layers do not compute, and what they keep alive."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.lean import COLLECT, PULL, conv
from jacfast.lean.batch_norm import EvalNorm
from jacfast.lean.sweep import FOREIGN
from tests.lean.sweeps import penalty, pull, run
from tests.nets import draw


@pytest.fixture
def input_gradients(monkeypatch):
    """Return a list that grows by each input gradient of a convolution or batch-norm."""
    made = []

    def noted(kind, name, wants):
        routine = getattr(kind, name)

        def call(*arguments):
            if wants(arguments):
                made.append(name)
            return routine(*arguments)

        monkeypatch.setattr(kind, name, call)

    noted(conv, "by_blocks", lambda arguments: True)
    noted(conv.Conv, "_backward", lambda arguments: arguments[-1][0])
    noted(EvalNorm, "pull", lambda arguments: True)
    return made


LAYERS = {
    "convolution": nn.Conv2d(6, 3, 3).double(),
    "convolution by blocks": nn.Conv2d(2, 3, 3).double(),
    "batch-norm": nn.BatchNorm2d(6).double().eval(),
}
# From the root to the first layer's input, and whether anything but the root is behind that.
WAYS = {
    "itself": (lambda x, p: x, True),
    "flattened": (lambda x, p: x.flatten(1).unflatten(1, x.shape[1:]), True),
    "normalised": (lambda x, p: (x - 0.5) / 2, True),
    "with ReLU": (lambda x, p: torch.relu(x), True),
    "with pooling": (lambda x, p: F.max_pool2d(x, 3, 1, 1), True),
    "in autocast's dtype and back": (lambda x, p: x.bfloat16().double(), True),
    "after a frozen layer": (lambda x, p: F.linear(x, torch.eye(6).double()), True),
    "times a parameter": (lambda x, p: x * p, False),
    "plus a parameter": (lambda x, p: (x.flatten(1) + p).view_as(x), False),
    "after a trained layer": (lambda x, p: F.linear(x, p * torch.eye(6).double()), False),
}


@pytest.mark.parametrize("wants_root", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LAYERS)
def test_input_gradients_that_nobody_wants(name, way, wants_root, input_gradients):
    """Of a layer on what the root became; every other sweep has them."""
    layer, p = LAYERS[name], draw(1).requires_grad_()
    x = draw(4, 2 if "blocks" in name else 6, 6, 6).requires_grad_()
    before, skips = WAYS[way]
    skips = skips and not wants_root
    mode, y = run(lambda x: layer(before(x, p)), x, x, wants_root=wants_root)
    with mode.sweep.of(PULL):
        _, g = pull(y, x)
    assert len(input_gradients) == 1
    parameters = list(layer.parameters())
    inputs = [*parameters, p, x] if wants_root else [*parameters, p]
    with mode.sweep.of(COLLECT):
        found = torch.autograd.grad([penalty(g), y.sum()], inputs, allow_unused=True)
    assert len(input_gradients) == (1 if skips else 2)
    z = x.detach().requires_grad_()
    stock = layer(before(z, p))
    _, h = pull(stock, z)
    inputs = [*parameters, p, z] if wants_root else [*parameters, p]
    want = torch.autograd.grad([penalty(h), stock.sum()], inputs, allow_unused=True)
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("name", LAYERS)
def test_sweeps_of_others_skip_nothing(name):
    layer, x = LAYERS[name], draw(4, 2 if "blocks" in name else 6, 6, 6).requires_grad_()
    mode, y = run(layer, x, x)
    assert mode.sweep.kind == FOREIGN
    got = torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])
    torch.testing.assert_close(
        got, torch.autograd.grad(layer(x).sin().sum(), [x, *layer.parameters()])
    )


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("swept", [True, False])
def test_nothing_outlives_the_last_reference(swept, root):
    """Neither before nor after the sweeps, and not only once cycles are looked for."""
    model = nn.Sequential(
        nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Unflatten(1, (2, 3))
    ).double()
    layers = nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3)).double().eval()
    gc.collect()
    gc.disable()
    try:
        x = draw(5, 6).requires_grad_()
        mode, y = run(lambda x: F.max_pool2d(layers(model(x))[None], 2), x, x if root else None)
        with mode.sweep.of(PULL):
            v, g = pull(y, x)
        p, left = penalty(g), [weakref.ref(one) for one in (x, mode, mode.sweep)]
        if swept:
            parameters = [*model.parameters(), *layers.parameters()]
            with mode.sweep.of(COLLECT):
                torch.autograd.grad([p, y.sum()], parameters, allow_unused=True)
        del x, mode, y, v, g, p
        assert [one() is None for one in left] == [True, True, True]
    finally:
        gc.enable()


def test_a_mode_that_is_kept_keeps_no_activations():
    """It is kept for what was met, until the backward pass."""
    x = draw(2, 2, 6, 6).requires_grad_()
    mode, y = run(lambda x: torch.relu(2 * x), x)
    left = weakref.ref(y)
    del y
    assert left() is None
    assert mode.rectified is None
