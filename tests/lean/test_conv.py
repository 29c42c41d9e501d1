"""Convolutions of a penalised step, against PyTorch's own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.lean import COLLECT, PULL
from tests.lean.sweeps import assert_same, lean, names, penalty, pull, run, stock
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


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_both_sweeps_are_pytorchs(case):
    layer, x = conv_of(*case)
    _, y = run(layer, x.requires_grad_())
    assert y.grad_fn.name() == "AffineBackward"
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
        assert "AffineBackward" in names(run(f, draw(2, 2, 9, 8).requires_grad_())[1])
        assert_same(f, draw(2, 2, 9, 8), [weight, bias])
    assert_same(lambda x: F.conv2d(x, weight, bias.detach()), draw(2, 2, 9, 8), [weight])
    assert_same(lambda x: F.conv2d(x, weight.detach(), bias), draw(2, 2, 9, 8), [bias])


def test_a_layer_called_twice_in_one_sweep_of_three_totals():
    layer, x = conv_of(*LAYERS[3])
    x.requires_grad_()
    parameters = list(layer.parameters())

    def f(x):
        return layer(x) + 2 * layer(x.flip(0))

    want = stock(f, x, parameters)
    mode, y = run(f, x)
    with mode.sweep.of(PULL):
        v, g = pull(y, x)
    with mode.sweep.of(COLLECT):
        weight, bias = torch.autograd.grad(
            [penalty(g), penalty(g), (y * v.detach()).sum()], parameters
        )
    both = 2 * want.second[layer.weight] + want.first[layer.weight]
    torch.testing.assert_close(weight, both)
    torch.testing.assert_close(bias, want.first[layer.bias])


@pytest.mark.parametrize("case", [LAYERS[0], LAYERS[3], LAYERS[8], LAYERS[11]], ids=str)
def test_under_autocast(case):
    layer, x = conv_of(*case)
    layer, x = layer.float(), x.float().requires_grad_()
    parameters = list(layer.parameters())
    exact = stock(layer.double(), x.double(), parameters)
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        mode, y = run(layer, x)
        assert torch.equal(y, layer(x))
    assert y.dtype == torch.bfloat16
    assert "AffineBackward" in names(y)
    with mode.sweep.of(PULL):
        v, g = pull(y, x)
    assert g.dtype == torch.float32
    assert relative_error(g, exact.g) < RTOL[torch.bfloat16]
    with mode.sweep.of(COLLECT):
        second = torch.autograd.grad(penalty(g), layer.weight, retain_graph=True)
        first = torch.autograd.grad(y, parameters, v)
    wanted = [exact.second[layer.weight], *(exact.first[p] for p in parameters)]
    for got, want in zip([*second, *first], wanted, strict=True):
        assert got.dtype == torch.float32
        assert relative_error(got, want) < RTOL[torch.bfloat16]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", [LAYERS[0], LAYERS[3], LAYERS[6], LAYERS[8], LAYERS[11]], ids=str)
def test_half_precision(case, half):
    """Against float64, of the same rounded weights and inputs."""
    layer, x = conv_of(*case)
    layer, x = layer.to(half), x.to(half)
    got = lean(layer, x, list(layer.parameters()))
    exact = copy.deepcopy(layer).double()
    want = stock(exact, x.double(), list(exact.parameters()))
    assert got.y.dtype == got.g.dtype == half
    for ours, theirs in zip(got[:3], want[:3], strict=True):
        assert relative_error(ours, theirs) < RTOL[torch.bfloat16]
    for ours, theirs in zip(layer.parameters(), exact.parameters(), strict=True):
        assert got.first[ours].dtype == half
        assert relative_error(got.first[ours], want.first[theirs]) < RTOL[torch.bfloat16]
    error = relative_error(got.second[layer.weight], want.second[exact.weight])
    assert error < RTOL[torch.bfloat16]


def test_what_goes_the_stock_way():
    layer, x = conv_of(2, 2, 4, 3, {"padding": "same"})
    unbatched, one = conv_of(*LAYERS[3])[0], draw(6, 9, 8)
    for f, z in ((layer, x), (unbatched, one), (unbatched, draw(0, 6, 9, 8))):
        _, y = run(f, z.requires_grad_())
        assert "AffineBackward" not in names(y)
        assert torch.equal(y, f(z))
