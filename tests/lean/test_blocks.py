"""The input gradient of convolutions with few input channels, against PyTorch's own."""

import pytest
import torch
from torch import nn

from jacfast.lean import lean
from tests.lean.sweeps import assert_same, pull
from tests.nets import draw

# in, out, kernel, stride, padding, height, width
SHAPES = [
    (1, 8, 5, 1, 2, 28, 28),
    (1, 6, 3, 1, 0, 9, 7),
    (1, 4, 1, 1, 0, 5, 5),
    (1, 4, 4, 3, 2, 11, 14),
    (2, 5, 3, 2, 1, 10, 13),
    (3, 8, 3, 1, 1, 32, 32),
    (3, 8, 7, 2, 3, 31, 30),
    (3, 5, 8, 8, 0, 32, 24),
    (3, 5, 8, 8, 0, 35, 31),
    (3, 4, 2, 5, 1, 23, 17),
    (4, 4, (3, 5), 1, (0, 4), 8, 12),
    (1, 4, 3, 1, 2, 1, 2),
]


def layer_of(c, o, kernel, stride, padding, *_):
    torch.manual_seed(0)
    return nn.Conv2d(c, o, kernel, stride, padding, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_input_gradients_by_blocks_are_pytorchs(shape, monkeypatch):
    layer = layer_of(*shape).requires_grad_(False)
    x = draw(3, shape[0], *shape[5:]).requires_grad_()
    with lean(layer):
        y = layer(x)
    assert y.grad_fn.name() == "AffineBackward"
    assert torch.equal(y, layer(x))
    v, want = pull(layer(x), x)
    (got,) = torch.autograd.grad(y, x, v, retain_graph=True)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    monkeypatch.setattr("jacfast.lean.conv.by_blocks", lambda g, w, shape, *_: g.new_ones(shape))
    assert bool((torch.autograd.grad(y, x, v)[0] == 1).all())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_sweeps_by_blocks_are_pytorchs(shape):
    layer = layer_of(*shape)
    assert_same(layer, draw(3, shape[0], *shape[5:]), list(layer.parameters()))


def test_a_padding_as_large_as_the_kernel():
    """Whose outermost outputs are of zeros alone."""
    layer = layer_of(3, 4, 1, 1, 1).requires_grad_(False)
    x = draw(2, 3, 9, 8).requires_grad_()
    v, want = pull(layer(x), x)
    with lean(layer):
        (got,) = torch.autograd.grad(layer(x), x, v)
    torch.testing.assert_close(got, want)
