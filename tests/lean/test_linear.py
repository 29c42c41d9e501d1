"""Linear layers of a penalised step: PyTorch's own, also where one is noted as the first."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.lean import COLLECT, PULL
from tests.lean.sweeps import assert_same, assert_step_is_stock, names, penalty, pull, run, stock
from tests.nets import RTOL, draw, relative_error

SHAPES = [(5, 6), (1, 6), (3, 4, 6), (2, 3, 4, 6)]


def layer_of(bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Linear(6, 4, bias=bias, dtype=dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_sweeps_are_pytorchs(shape, bias):
    layer, x = layer_of(bias), draw(*shape)
    assert_same(layer, x, list(layer.parameters()))
    mode, y = run(layer, root := x.requires_grad_(), root)
    assert names(y) == names(layer(x))
    assert mode.gram.weight is layer.weight
    assert_step_is_stock(layer, x, list(layer.parameters()))


def test_other_layouts():
    layer = layer_of()
    for x in (draw(6, 5).t(), draw(1, 6).expand(5, -1), draw(5, 12)[:, ::2]):
        assert_step_is_stock(layer, x, list(layer.parameters()))


def test_arguments_by_name_and_frozen_ones():
    weight, bias = draw(4, 6).requires_grad_(), draw(4, seed=2).requires_grad_()
    for f, parameters in (
        (lambda x: F.linear(input=x, weight=weight, bias=bias), [weight, bias]),
        (lambda x: F.linear(x, weight, bias.detach()), [weight]),
        (lambda x: F.linear(x, weight.detach(), bias), [bias]),
    ):
        assert_step_is_stock(f, draw(5, 6), parameters)
        mode, _ = run(f, x := draw(5, 6).requires_grad_(), x)
        assert mode.gram is not None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_under_autocast(shape):
    """Gradients in the parameters' dtype, of products in autocast's; there is no Gram matrix."""
    layer = layer_of(dtype=torch.float32)
    x, parameters = draw(*shape, dtype=torch.float32).requires_grad_(), list(layer.parameters())
    exact = stock(layer, x, parameters)
    with torch.autocast("cpu", torch.bfloat16):
        mode, y = run(layer, x, x)
        assert torch.equal(y, layer(x))
    assert y.dtype == torch.bfloat16
    assert mode.gram is None
    with mode.sweep.of(PULL):
        v, g = pull(y, x)
    assert g.dtype == torch.float32
    with mode.sweep.of(COLLECT):
        second = torch.autograd.grad(penalty(g), layer.weight, retain_graph=True)
        first = torch.autograd.grad(y, parameters, v)
    wanted = [exact.second[layer.weight], *(exact.first[p] for p in parameters)]
    for got, want in zip([*second, *first], wanted, strict=True):
        assert got.dtype == torch.float32
        assert relative_error(got, want) < RTOL[torch.bfloat16]


def test_dtypes_that_do_not_fit_are_the_stock_error():
    with pytest.raises(RuntimeError, match="dtype"):
        run(layer_of(), x := draw(5, 6, dtype=torch.float32).requires_grad_(), x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_can_be_changed_in_place(shape):
    """Also those of the layer that is noted, on the root."""
    layer = layer_of()
    for f in (
        lambda x: F.silu(layer(x), inplace=True),
        lambda x: F.relu(layer(x), inplace=True),
        lambda x: layer(x).add_(x[..., :4]),
    ):
        assert_step_is_stock(f, draw(*shape), list(layer.parameters()))


def test_a_vector_for_a_weight_and_a_number_for_a_bias():
    vector, weight = draw(6).requires_grad_(), draw(4, 6, seed=2).requires_grad_()
    number, x = draw(1)[0].requires_grad_(), draw(5, 6).requires_grad_()
    assert run(lambda x: F.linear(x, vector), x, x)[0].gram is None
    assert_step_is_stock(lambda x: F.linear(x, vector), x, [vector])
    assert_step_is_stock(lambda x: F.linear(x, weight, number), x, [weight, number])
