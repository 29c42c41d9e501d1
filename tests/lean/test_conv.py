"""Convolutions of a penalised step, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.lean import TRAINING, Lean, Sink
from tests.lean.sweeps import assert_same, names, penalty, pull, stock
from tests.nets import RTOL, draw, relative_error

# dimensions, in, out, kernel, options
LAYERS = [
    (1, 3, 5, 3, {}),
    (1, 4, 6, 3, {"stride": 2, "padding": 1, "groups": 2}),
    (1, 4, 4, 2, {"dilation": 3, "groups": 4}),
    (2, 6, 5, 3, {}),
    (2, 6, 4, 3, {"stride": 2, "padding": 1, "bias": False}),
    (2, 6, 4, (2, 3), {"stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)}),
    (2, 6, 4, 3, {"groups": 2, "padding": 2}),
    (2, 6, 12, 3, {"groups": 6, "padding": 1}),
    (2, 2, 4, 3, {"dilation": 2}),
    (2, 2, 4, 3, {"padding": 3}),
    (2, 2, 4, 3, {"padding": 1, "padding_mode": "circular"}),
    (3, 2, 3, 2, {"padding": 1}),
    (3, 4, 4, 3, {"stride": 2, "groups": 4, "bias": False}),
    (3, 2, 3, 2, {"dilation": 2, "stride": (1, 2, 1)}),
]


def conv_of(dimensions, c, o, kernel, options):
    torch.manual_seed(0)
    make = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    return make(c, o, kernel, **options).double(), draw(2, c, *(9, 8, 7)[:dimensions])


def train(f, x, parameters):
    sink = Sink(parameters)
    with Lean(sink, TRAINING):
        return sink, f(x)


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_both_sweeps_are_pytorchs(case):
    layer, x = conv_of(*case)
    _, y = train(layer, x.requires_grad_(), list(layer.parameters()))
    assert y.grad_fn.name() == "ConvBackward"
    assert_same(layer, x, list(layer.parameters()))


def test_other_layouts_and_precisions():
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 5, 3).double()
    x = draw(2, 6, 9, 8)
    for one in (
        x.to(memory_format=torch.channels_last),
        x.transpose(2, 3),
        x[:1].expand(3, *x[0].shape),
    ):
        assert_same(layer, one, list(layer.parameters()))
    single = layer.float()
    assert_same(single, x.float(), list(single.parameters()), rtol=1e-4, atol=1e-4)


def test_arguments_as_numbers_tuples_and_names():
    weight, bias = draw(4, 2, 3, 3).requires_grad_(), draw(4, seed=2).requires_grad_()
    for f in (
        lambda x: F.conv2d(x, weight, bias, 2, 1, 1, 1),
        lambda x: torch.conv2d(x, weight, bias, [2], (1,), [1, 1]),
        lambda x: torch.conv2d(input=x, weight=weight, bias=bias, stride=2, padding=1),
    ):
        assert (
            train(f, draw(2, 2, 9, 8).requires_grad_(), [weight, bias])[1].grad_fn.name()
            == "ConvBackward"
        )
        assert_same(f, draw(2, 2, 9, 8), [weight, bias])
    assert_same(lambda x: F.conv2d(x, weight, bias.detach()), draw(2, 2, 9, 8), [weight])
    assert_same(lambda x: F.conv2d(x, weight.detach(), bias), draw(2, 2, 9, 8), [bias])


def test_sweeps_and_calls_accumulate():
    layer, x = conv_of(*LAYERS[3])
    x.requires_grad_()

    def f(x):
        return layer(x) + 2 * layer(x.flip(0))

    want = stock(f, x, list(layer.parameters()))
    sink, y = train(f, x, list(layer.parameters()))
    v, g = pull(y, x)
    for p in (penalty(g), penalty(g), (y * v.detach()).sum()):
        with sink.mine(collecting=True):
            torch.autograd.grad(p, [sink.anchor], retain_graph=True, allow_unused=True)
    weight = 2 * want.second[layer.weight] + want.first[layer.weight]
    torch.testing.assert_close(sink.gradients[layer.weight], weight)
    torch.testing.assert_close(sink.gradients[layer.bias], want.first[layer.bias])


@pytest.mark.parametrize("case", [LAYERS[0], LAYERS[3], LAYERS[8], LAYERS[11]], ids=str)
def test_under_autocast(case):
    layer, x = conv_of(*case)
    layer, x = layer.float(), x.float().requires_grad_()
    exact = stock(layer, x, list(layer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        sink, y = train(layer, x, list(layer.parameters()))
        assert torch.equal(y, layer(x))
    assert y.dtype == torch.bfloat16
    v, g = pull(y, x)
    assert g.dtype == torch.float32
    for p, want in ((penalty(g), exact.second), ((y * v.detach()).sum(), exact.first)):
        with sink.mine(collecting=True):
            torch.autograd.grad(p, [sink.anchor], retain_graph=True, allow_unused=True)
        assert sink.gradients.keys() == want.keys()
        for parameter, gradient in sink.gradients.items():
            assert gradient.dtype == torch.float32
            assert relative_error(gradient, want[parameter]) < RTOL[torch.bfloat16]
        sink.gradients.clear()


def test_what_goes_the_stock_way():
    layer, x = conv_of(2, 2, 4, 3, {"padding": "same"})
    unbatched, one = conv_of(*LAYERS[3])[0], draw(6, 9, 8)
    for f, z in ((layer, x), (unbatched, one), (unbatched, draw(0, 6, 9, 8))):
        _, y = train(f, z.requires_grad_(), list(f.parameters()))
        assert "ConvBackward" not in names(y)
        assert torch.equal(y, f(z))
