"""The layout in which convolutions hand on the gradient of their input: that of the input."""

import pytest
import torch
from torch import nn

from jacfast.lean import COLLECT, PULL
from jacfast.lean.conv import LAST
from jacfast.lean.sweep import FOREIGN
from tests.lean.sweeps import assert_same, pull, run
from tests.nets import RTOL, draw, relative_error

# in, out, kernel, options; of those that PyTorch's routine runs
OPTIONS = [
    (6, 4, 3, {}),
    (6, 4, 3, {"stride": 2, "padding": 1}),
    (6, 4, 3, {"padding": 2, "bias": False}),
    (6, 4, 1, {"stride": 2}),
    (6, 4, 2, {"stride": 3, "dilation": 2}),
    (6, 4, 3, {"dilation": 2, "padding": 2}),
    (6, 4, 3, {"groups": 2, "stride": 2}),
    (6, 12, 3, {"groups": 6, "padding": 1}),
    (2, 4, 3, {"padding": 3, "groups": 2}),
]
FEW = (3, 4, 3, {"padding": 1})  # channels: by blocks, whose gradient has a layout of its own
CONVS = {4: (nn.Conv2d, (9, 8)), 5: (nn.Conv3d, (7, 6, 8))}


def case_of(dimensions, c, o, kernel, options, dtype=torch.float64):
    """Return a layer and a batch whose channels are last."""
    torch.manual_seed(0)
    make, sizes = CONVS[dimensions]
    x = draw(2, c, *sizes, dtype=dtype).contiguous(memory_format=LAST[dimensions])
    assert not x.is_contiguous()
    return make(c, o, kernel, **options).to(dtype), x.requires_grad_()


def assert_last(g):
    assert g.is_contiguous(memory_format=LAST[g.dim()])
    assert not g.is_contiguous()


@pytest.mark.parametrize("dimensions", LAST)
@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_channels_stay_last(case, dimensions):
    """In float32: PyTorch has no 3-D routine for this layout in float64 on a CPU."""
    layer, x = case_of(dimensions, *case, dtype=torch.float32)
    mode, y = run(layer, x)
    (want,) = torch.autograd.grad(layer(x), x, torch.ones_like(y))
    assert_last(want)
    for kind in (PULL, COLLECT, FOREIGN):
        with mode.sweep.of(kind):
            (got,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
        assert_last(got)
        assert relative_error(got, want) < RTOL[torch.float32]
    with mode.sweep.of(PULL):
        assert_last(pull(y, x)[1])


@pytest.mark.parametrize("dimensions", LAST)
@pytest.mark.parametrize("case", [*OPTIONS, FEW], ids=str)
def test_both_sweeps_are_pytorchs(case, dimensions):
    layer, x = case_of(dimensions, *case)
    assert_same(layer, x, list(layer.parameters()))


@pytest.mark.parametrize("dimensions", LAST)
@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_contiguous_inputs_have_contiguous_gradients(case, dimensions):
    """Whatever the layout of the cotangent."""
    layer, x = case_of(dimensions, *case)
    x = x.detach().contiguous().requires_grad_()
    mode, y = run(layer, x)
    cotangent = draw(*y.shape).contiguous(memory_format=LAST[dimensions])
    with mode.sweep.of(PULL):
        (got,) = torch.autograd.grad(y, x, cotangent)
    assert got.is_contiguous()
    torch.testing.assert_close(got, torch.autograd.grad(layer(x), x, cotangent)[0])


COTANGENTS = {
    "channels last": lambda g: g.contiguous(memory_format=torch.channels_last),
    "transposed": lambda g: g.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda g: g.mean((2, 3), keepdim=True).expand_as(g),
}


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("name", COTANGENTS)
def test_cotangents_in_any_layout(name, samples):
    """Also of one sample, whose strides fit several."""
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 4, 3).double()
    x = draw(samples, 6, 9, 8)
    for one in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)):
        one = one.detach().requires_grad_()
        inputs = [one, *layer.parameters()]
        mode, y = run(layer, one)
        g = COTANGENTS[name](draw(*y.shape))
        with mode.sweep.of(COLLECT):
            got = torch.autograd.grad(y, inputs, g)
        torch.testing.assert_close(got, torch.autograd.grad(layer(one), inputs, g.contiguous()))
