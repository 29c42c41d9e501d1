"""The input gradient of convolutions with few input channels, against PyTorch's own."""

import pytest
import torch
from torch import nn

from jacfast.lean import lean

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


def layer_of(c, o, kernel, stride, padding, *_, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Conv2d(c, o, kernel, stride, padding, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_first_and_second_derivatives_are_pytorchs(shape):
    layer = layer_of(*shape)
    x = torch.randn(3, shape[0], *shape[5:], dtype=torch.float64, requires_grad=True)

    def gradients(y):
        v, u = torch.ones_like(y).cumsum(2).sin(), torch.ones_like(x).cumsum(3).cos()
        (g,) = torch.autograd.grad(y, x, v, create_graph=True)
        second = torch.autograd.grad(
            (g * u).sum() + (g**2).sum() / 2,
            layer.parameters(),
            allow_unused=True,
            retain_graph=True,
        )
        first = torch.autograd.grad(y, layer.parameters(), v)
        return [g, second[0], *first]

    expected = gradients(layer(x))
    with lean(layer):
        y = layer(x)
    assert "_Conv" in y.grad_fn.name()
    assert torch.equal(y, layer(x))
    for ours, stock in zip(gradients(y), expected, strict=True):
        assert torch.allclose(ours, stock, rtol=1e-10, atol=1e-10)
