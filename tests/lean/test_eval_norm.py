"""Batch-norm in eval mode, as a penalised step and rows of the Jacobian take it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast.graph import nodes
from jacfast.lean import TRAINING, Lean, Sink
from tests.lean.sweeps import assert_same, lean, names, penalty, pull
from tests.nets import RTOL, draw, relative_error

LAYERS = {
    "1d": (nn.BatchNorm1d, (5, 3)),
    "1d, long": (nn.BatchNorm1d, (5, 3, 7)),
    "2d": (nn.BatchNorm2d, (2, 3, 4, 5)),
    "2d, one sample": (nn.BatchNorm2d, (1, 3, 4, 5)),
    "3d": (nn.BatchNorm3d, (2, 3, 2, 4, 3)),
}


def norm_of(kind, affine=True, dtype=torch.float64):
    layer = kind(3, affine=affine).to(dtype).eval()
    with torch.no_grad():
        for number, tensor in enumerate((*layer.parameters(), *layer.buffers())):
            if tensor.is_floating_point():
                tensor.copy_(draw(3, seed=number).abs() + 0.5)
    return layer


def run(f, x):
    with Lean(Sink(getattr(f, "parameters", list)()), TRAINING):
        return f(x)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_both_sweeps_are_pytorchs(name, affine):
    kind, shape = LAYERS[name]
    layer = norm_of(kind, affine)
    assert "EvalNormBackward" in names(run(layer, draw(*shape).requires_grad_()))
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
    for forward, touches in ((lambda z: run(layer, z), False), (layer, True)):
        h = x + 0
        _, g = pull(forward(h), x)
        assert (h.grad_fn in nodes(penalty(g))) == touches


def test_what_goes_the_stock_way():
    layer, x = norm_of(nn.BatchNorm1d), draw(5, 3).requires_grad_()
    layer.running_mean.requires_grad_()
    with pytest.raises(RuntimeError, match=r"not differentiable with respect to .*running_mean"):
        run(layer, x)
    layer.running_mean.requires_grad_(False)
    assert "EvalNormBackward" not in names(run(layer.train(), x))
    without = nn.BatchNorm1d(3, track_running_stats=False).double().eval()
    assert "EvalNormBackward" not in names(run(without, x))
    weight = draw(3, seed=2).requires_grad_()  # not the model's

    def f(x):
        return F.batch_norm(x, layer.running_mean, layer.running_var, weight)

    assert "EvalNormBackward" not in names(run(f, x))


def test_statistics_that_change_before_the_backward_pass():
    layer, x = norm_of(nn.BatchNorm1d), draw(5, 3).requires_grad_()
    y = run(layer, x)
    layer.running_var.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), x)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_input_of_a_float32_layer(half):
    layer, x = norm_of(nn.BatchNorm2d, dtype=torch.float32), draw(2, 3, 4, 5, dtype=half)
    eps = torch.finfo(half).eps
    assert_same(layer, x, list(layer.parameters()), rtol=8 * eps, atol=8 * eps)


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
