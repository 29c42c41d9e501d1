"""Batch-norm in eval mode, as a penalised step and rows of the Jacobian take it."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast.graph import nodes
from jacfast.lean import PULL
from tests.lean.sweeps import assert_same, lean, names, penalty, pull, run, stock
from tests.nets import RTOL, draw, relative_error

LAYERS = {
    "1d": (nn.BatchNorm1d, (5, 3)),
    "1d, long": (nn.BatchNorm1d, (5, 3, 7)),
    "2d": (nn.BatchNorm2d, (2, 3, 4, 5)),
    "2d, one sample": (nn.BatchNorm2d, (1, 3, 4, 5)),
    "2d, few pixels": (nn.BatchNorm2d, (4, 3, 2, 3)),
    "3d": (nn.BatchNorm3d, (2, 3, 2, 4, 3)),
}


def norm_of(kind, affine=True, dtype=torch.float64):
    layer = kind(3, affine=affine).to(dtype).eval()
    with torch.no_grad():
        for number, tensor in enumerate((*layer.parameters(), *layer.buffers())):
            if tensor.is_floating_point():
                tensor.copy_(draw(3, seed=number).abs() + 0.5)
    return layer


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_both_sweeps_are_pytorchs(name, affine):
    kind, shape = LAYERS[name]
    layer = norm_of(kind, affine)
    assert "AffineBackward" in names(run(layer, draw(*shape).requires_grad_())[1])
    assert_same(layer, draw(*shape), list(layer.parameters()))
    second = lean(layer, draw(*shape), list(layer.parameters())).second
    assert second.keys() == ({layer.weight} if affine else set())


def test_arguments_by_name_and_frozen_ones():
    mean, variance = draw(3), draw(3, seed=1).abs()
    weight, bias = draw(3, seed=2).requires_grad_(), draw(3, seed=3).requires_grad_()

    def f(x, weight=weight, bias=bias):
        return F.batch_norm(x, mean, variance, weight=weight, bias=bias, training=False, eps=0.1)

    assert_same(f, draw(5, 3), [weight, bias])
    assert_same(lambda x: f(x, weight.detach(), bias), draw(5, 3), [bias])
    assert_same(lambda x: f(x, weight, None), draw(5, 3), [weight])
    assert_same(lambda x: f(x, None, None), draw(5, 3), [])


def test_its_penalty_stays_apart_from_the_forward_graph():
    layer = norm_of(nn.BatchNorm2d)
    x = draw(2, 3, 4, 5).requires_grad_()
    h = x + 0
    mode, y = run(layer, h)
    with mode.sweep.of(PULL):
        _, g = pull(y, x)
    assert h.grad_fn not in nodes(penalty(g))
    _, g = pull(layer(h), x)
    assert h.grad_fn in nodes(penalty(g))


def test_what_goes_the_stock_way():
    layer, x = norm_of(nn.BatchNorm1d), draw(5, 3).requires_grad_()
    layer.running_mean.requires_grad_()
    with pytest.raises(RuntimeError, match=r"not differentiable with respect to .*running_mean"):
        run(layer, x)
    layer.running_mean.requires_grad_(False)
    assert "AffineBackward" not in names(run(layer.train(), x)[1])
    without = nn.BatchNorm1d(3, track_running_stats=False).double().eval()
    assert "AffineBackward" not in names(run(without, x)[1])


def test_statistics_that_change_before_the_backward_pass():
    layer, x = norm_of(nn.BatchNorm1d), draw(5, 3).requires_grad_()
    _, y = run(layer, x)
    layer.running_var.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), x)


def test_statistics_that_change_before_the_second_sweep():
    layer, x = norm_of(nn.BatchNorm1d), draw(5, 3).requires_grad_()
    mode, y = run(layer, x)
    with mode.sweep.of(PULL):
        (g,) = torch.autograd.grad(y, x, draw(5, 3, seed=1), create_graph=True)
    layer.running_var.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(g.square().sum(), layer.weight)


def test_a_weight_that_changes_before_the_backward_pass():
    layer, x = norm_of(nn.BatchNorm1d), draw(5, 3).requires_grad_()
    _, y = run(layer, x)
    with torch.no_grad():
        layer.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), x)


def written_out(layer):
    """Return the layer as its formula, which has no layouts."""

    def f(x):
        each = [t.reshape(-1, *[1] * (x.dim() - 2)) for t in (layer.weight, layer.bias)]
        mean, variance = (
            t.reshape(-1, *[1] * (x.dim() - 2)) for t in (layer.running_mean, layer.running_var)
        )
        return (x - mean) / (variance + layer.eps).sqrt() * each[0] + each[1]

    return f


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_input_of_a_float32_layer(half):
    layer, x = norm_of(nn.BatchNorm2d, dtype=torch.float32), draw(2, 3, 4, 5, dtype=half)
    eps = torch.finfo(half).eps
    assert_same(layer, x, list(layer.parameters()), rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixed", [True, False])
def test_half_precision(half, mixed):
    """Of inputs alone or of the layer as well, against float64 of the same rounded numbers."""
    layer, x = norm_of(nn.BatchNorm2d), draw(2, 3, 4, 5, dtype=half)
    layer = layer.float() if mixed else layer.to(half)
    exact = copy.deepcopy(layer).double()
    got = lean(layer, x, list(layer.parameters()))
    want = stock(written_out(exact), x.double(), list(exact.parameters()))
    assert got.y.dtype == got.g.dtype == half
    for ours, theirs in zip(got[:3], want[:3], strict=True):
        assert relative_error(ours, theirs) < RTOL[torch.bfloat16]
    for ours, theirs in zip(layer.parameters(), exact.parameters(), strict=True):
        assert got.first[ours].dtype == ours.dtype
        assert relative_error(got.first[ours], want.first[theirs]) < RTOL[torch.bfloat16]
    error = relative_error(got.second[layer.weight], want.second[exact.weight])
    assert error < RTOL[torch.bfloat16]


def strides_of(kind, shape):
    """Return strides for [N, C, H, W]; ``odd`` ones fit several layouts, where a size is 1."""
    _, c, h, w = shape
    if kind == "transposed":
        return c * h * w, h * w, 1, h
    last = kind.endswith("last")
    strides = (c * h * w, 1, w * c, c) if last else (c * h * w, h * w, w, 1)
    if kind.startswith("odd"):
        return tuple(
            (c if last else 1) if size == 1 else stride
            for size, stride in zip(shape, strides, strict=True)
        )
    return strides


class Strided(torch.autograd.Function):
    """The identity, that hands on values in one layout and gradients in another."""

    @staticmethod
    def forward(ctx, x, strides, back):
        ctx.strides = strides, back
        return torch.empty_strided(x.shape, strides, dtype=x.dtype).copy_(x)

    @staticmethod
    def backward(ctx, g):
        strides, back = ctx.strides
        return Strided.apply(g, back, strides), None, None


LAYOUTS = ["first", "last", "odd first", "odd last", "transposed"]
TRAINED = [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize("trained", TRAINED, ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 5), (1, 3, 4, 5), (1, 3, 5, 5), (2, 3, 1, 5), (4, 3, 1, 1), (1, 3, 1, 1)]
)
def test_gradients_are_the_formulas_in_all_layouts(shape, trained):
    """Of inputs and tangents in one layout, with cotangents in another."""
    layer, x = norm_of(nn.BatchNorm2d), draw(*shape)
    for parameter, wanted in zip((layer.weight, layer.bias), trained, strict=True):
        parameter.requires_grad_(wanted)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    want = stock(written_out(layer), x, parameters)
    for here, there in product([strides_of(kind, shape) for kind in LAYOUTS], repeat=2):

        def f(x, here=here, there=there):
            h = layer(Strided.apply(x, here, x.stride()))
            assert "AffineBackward" in names(h)
            return Strided.apply(h, h.stride(), there)

        got = lean(f, x, parameters)
        torch.testing.assert_close(got[:3], want[:3])
        assert got.first.keys() == want.first.keys()
        for p in parameters:
            torch.testing.assert_close(got.first[p], want.first[p])
        if layer.weight.requires_grad:
            torch.testing.assert_close(got.second[layer.weight], want.second[layer.weight])


@pytest.mark.parametrize(
    "x",
    [
        draw(1, 3, 4, 5).expand(4, -1, -1, -1),
        draw(2, 3, 1, 1).expand(-1, -1, 4, 5),
        draw(2, 3, 4, 10)[..., ::2],
        draw(2, 6, 4, 5)[:, ::2],
    ],
    ids=[
        "one sample repeated",
        "one pixel repeated",
        "every second column",
        "every second channel",
    ],
)
def test_inputs_that_are_not_dense(x):
    layer = norm_of(nn.BatchNorm2d)
    got = lean(layer, x, list(layer.parameters()))
    want = stock(written_out(layer), x, list(layer.parameters()))
    torch.testing.assert_close(got[:3], want[:3])
    torch.testing.assert_close(got.first, want.first)
    torch.testing.assert_close(got.second[layer.weight], want.second[layer.weight])


class OddStrides(torch.autograd.Function):
    """The identity, whose gradient comes in strides that one sample can have."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        channels, width = g.shape[1], g.shape[3]
        strides = (channels, 1, width * channels, channels)
        return torch.empty_strided(g.shape, strides, dtype=g.dtype).copy_(g)


def test_rows_of_one_sample_in_odd_strides_are_right():
    layer, x = norm_of(nn.BatchNorm2d), draw(1, 3, 5, 5)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = layer

        def forward(self, x):
            return OddStrides.apply(self.norm(x)).square().flatten(1)[:, :4]

    rows = jacfast.jacobian(Model().eval(), x)
    scale = (layer.weight / (layer.running_var + layer.eps).sqrt())[0]
    with torch.no_grad():
        diagonal = 2 * layer(x).flatten(1)[0, :4] * scale
    want = torch.zeros(1, 4, 75, dtype=torch.float64)
    want[0, range(4), range(4)] = diagonal
    assert relative_error(rows.flatten(2), want) < RTOL[torch.float64]
