"""The linear layer of a penalised step, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.lean import TRAINING, Lean, Sink
from tests.lean.sweeps import assert_same, lean, names, penalty, pull, stock
from tests.nets import RTOL, draw, relative_error

SHAPES = [(5, 6), (1, 6), (3, 4, 6), (2, 3, 4, 6)]


def layer_of(bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Linear(6, 4, bias=bias, dtype=dtype)


def run(layer, x):
    sink = Sink(layer.parameters())
    with Lean(sink, TRAINING):
        return sink, layer(x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_sweeps_are_pytorchs(shape, bias):
    layer = layer_of(bias)
    _, y = run(layer, draw(*shape).requires_grad_())
    assert names(y) >= {"LinearBackward"}
    assert_same(layer, draw(*shape), list(layer.parameters()))
    assert lean(layer, draw(*shape), list(layer.parameters())).second.keys() == {layer.weight}


def test_other_layouts():
    layer, plain = layer_of(), layer_of(bias=False)
    for x in (draw(6, 5).t(), draw(1, 6).expand(5, -1), draw(5, 12)[:, ::2]):
        assert_same(layer, x, list(layer.parameters()))
    for x in (draw(6, 4, 3).transpose(0, 2), draw(3, 1, 6).expand(3, 4, 6)):
        assert_same(plain, x, list(plain.parameters()))


def test_arguments_by_name_and_frozen_ones():
    weight, bias = draw(4, 6).requires_grad_(), draw(4, seed=2).requires_grad_()
    assert_same(lambda x: F.linear(input=x, weight=weight, bias=bias), draw(5, 6), [weight, bias])
    assert_same(lambda x: F.linear(x, weight, bias.detach()), draw(5, 6), [weight])
    assert_same(lambda x: F.linear(x, weight.detach(), bias), draw(5, 6), [bias])


def test_a_sweep_that_does_not_collect_puts_nothing():
    x = draw(5, 6).requires_grad_()
    sink, y = run(layer_of(), x)
    v, g = pull(y, x)
    torch.autograd.grad(penalty(g), [v, sink.anchor], retain_graph=True, allow_unused=True)
    torch.autograd.grad(y, [x, sink.anchor], v, allow_unused=True)
    assert not sink.gradients


def test_sweeps_and_calls_accumulate():
    """Twice the penalty and once the loss, of a layer called twice."""
    layer = layer_of()
    x = draw(5, 6).requires_grad_()

    def f(x):
        return layer(x) + 2 * layer(x.flip(0))

    want = stock(f, x, list(layer.parameters()))
    sink = Sink(layer.parameters())
    with Lean(sink, TRAINING):
        y = f(x)
    v, g = pull(y, x)
    for p in (penalty(g), penalty(g), (y * v.detach()).sum()):
        with sink.mine(collecting=True):
            torch.autograd.grad(p, [sink.anchor], retain_graph=True, allow_unused=True)
    weight = 2 * want.second[layer.weight] + want.first[layer.weight]
    torch.testing.assert_close(sink.gradients[layer.weight], weight)
    torch.testing.assert_close(sink.gradients[layer.bias], want.first[layer.bias])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_under_autocast(shape):
    """The sums are kept in the parameters' dtype, the products made in autocast's."""
    layer = layer_of(dtype=torch.float32)
    exact = stock(layer, draw(*shape, dtype=torch.float32), list(layer.parameters()))
    x = draw(*shape, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        sink, y = run(layer, x)
        assert torch.equal(y, layer(x))
    assert y.dtype == torch.bfloat16
    assert "LinearBackward" in names(y)
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


def test_autocast_leaves_double_precision_alone():
    with torch.autocast("cpu", torch.bfloat16):
        _, y = run(layer_of(), draw(5, 6).requires_grad_())
        assert "LinearBackward" in names(y)
        assert torch.equal(y, layer_of()(draw(5, 6)))
        assert y.dtype == torch.float64


def test_what_goes_the_stock_way():
    layer = layer_of()
    for x in (
        draw(6).requires_grad_(),  # a single sample
        draw(0, 6).requires_grad_(),
        draw(5, 6),  # needs no gradient
    ):
        _, y = run(layer, x)
        assert "LinearBackward" not in names(y)
        assert torch.equal(y, layer(x))
    with pytest.raises(RuntimeError, match="dtype"):
        run(layer, draw(5, 6, dtype=torch.float32).requires_grad_())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_can_be_changed_in_place(shape):
    layer = layer_of()
    assert_same(lambda x: F.silu(layer(x), inplace=True), draw(*shape), list(layer.parameters()))
    assert_same(lambda x: F.relu(layer(x), inplace=True), draw(*shape), list(layer.parameters()))
    assert_same(lambda x: layer(x).add_(x[..., :4]), draw(*shape), list(layer.parameters()))


def test_inputs_of_a_frozen_layer_can_be_changed_in_place():
    layer = layer_of().requires_grad_(False)

    def f(x):
        h = 2 * x
        y = layer(h)
        return y + h.add_(1)[..., :4]

    assert_same(f, draw(5, 6), [])


def test_a_vector_for_a_weight():
    weight = draw(6).requires_grad_()
    sink, x = Sink([weight]), draw(5, 6).requires_grad_()
    with Lean(sink, TRAINING):
        y = F.linear(x, weight)
    assert y.shape == (5,)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), weight)[0], x.detach().sum(0))


def test_a_number_for_a_bias():
    weight, bias = draw(4, 6).requires_grad_(), draw(1)[0].requires_grad_()
    sink, x = Sink([weight, bias]), draw(5, 6).requires_grad_()
    with Lean(sink, TRAINING):
        y = F.linear(x, weight, bias)
    with sink.mine(collecting=True):
        _, found = torch.autograd.grad(y.sum(), [sink.anchor, bias], allow_unused=True)
    gradient = sink.gradients.get(bias, found)
    assert gradient.shape == ()
    assert float(gradient) == 20
