"""Operations of the user's own in the model, as torch.autograd.Function."""

import gc

import pytest
import torch
from torch import nn

from jacfast import Frobenius, InputGradient, Spectral, foreign
from tests.functions import (
    Cube,
    CubeData,
    CubeNoGrad,
    CubeNumpy,
    CubeOnce,
    Multiplied,
    Passed,
    Scaled,
)
from tests.interrupts import interrupts
from tests.step.networks import build
from tests.step.steps import assert_same, fast, gradient, plain, step


class Applied(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Signs(torch.autograd.Function):
    """The signs of x, with a gradient that is 0."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return torch.zeros_like(g)


def with_layer(model: nn.Module, position: int, function) -> nn.Module:
    return nn.Sequential(*model[:position], Applied(function), *model[position:])


@pytest.mark.parametrize("penalty", [Frobenius(2), InputGradient(), Spectral()])
@pytest.mark.parametrize("position", [0, 2, 5])
def test_functions_in_the_model(position, penalty):
    model, x, y = build("mlp")
    want = step(plain, with_layer(model, position, lambda x: x**3), x, y, penalty)
    for function in (Cube.apply, lambda x: x**3):
        assert_same(step(fast, with_layer(model, position, function), x, y, penalty), want)


@pytest.mark.parametrize("way", [fast, plain])
@pytest.mark.parametrize("penalty", [Frobenius(2), Frobenius("exact"), InputGradient()])
@pytest.mark.parametrize("position", [0, 2, 5])
@pytest.mark.parametrize("function", [CubeOnce, CubeNoGrad, CubeData, CubeNumpy])
def test_functions_that_differentiate_once_are_an_error(function, position, penalty, way):
    """At the end of the model, too, where a constant cotangent leaves no trace of them."""
    model, x, y = build("mlp")
    once = with_layer(model, position, function.apply)
    with pytest.raises(RuntimeError, match=f"the backward pass of {function.__name__} leaves no"):
        way(once, x, y, penalty)


@pytest.mark.parametrize("function", [CubeOnce, CubeNoGrad, CubeData, CubeNumpy])
def test_a_function_of_x_itself_that_differentiates_once_is_an_error(function):
    model, x, _ = build("mlp")
    x = x.detach().requires_grad_()
    with pytest.raises(RuntimeError, match=f"the backward pass of {function.__name__} leaves no"):
        Frobenius()(model(function.apply(x)), x)


@pytest.mark.parametrize("way", [fast, plain])
@pytest.mark.parametrize("position", [0, 2, 5])
def test_functions_whose_derivative_is_a_constant(position, way):
    """Nothing is lost with them, and a gradient of 0 is a constant."""
    model, x, y = build("mlp")
    penalty, scale = Frobenius("exact"), torch.tensor(1.5, dtype=x.dtype, requires_grad=True)
    for function, same in (
        (Passed.apply, lambda x: x),
        (lambda x: x + Signs.apply(x), lambda x: x + x.sign()),
        (lambda x: Scaled.apply(x, scale.detach()), lambda x: x * 1.5),
        (lambda x: Scaled.apply(x, scale), lambda x: x * 1.5),
    ):
        if way is fast and function(x).requires_grad:
            continue  # a scale that is no parameter of the model
        _, got = way(with_layer(model, position, function), x, y, penalty)
        _, want = plain(with_layer(model, position, same), x, y, penalty)
        torch.testing.assert_close(gradient(got, model), gradient(want, model))


class Weighted(nn.Module):
    def __init__(self, function, size: int) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.linspace(1, 2, size).double())

    def forward(self, x):
        return self.function(x, self.weight)


@pytest.mark.parametrize("way", [fast, plain])
@pytest.mark.parametrize(("position", "size"), [(0, 12), (2, 7), (5, 5)])
def test_what_a_function_returns_for_a_parameter_does_not_matter(position, size, way):
    model, x, y = build("mlp")
    got, want = (
        nn.Sequential(*model[:position], Weighted(function, size), *model[position:])
        for function in (Multiplied.apply, lambda x, w: x * w)
    )
    assert_same(step(way, got, x, y, Frobenius(2)), step(plain, want, x, y, Frobenius(2)))


class Coupled(torch.autograd.Function):
    """A reversible block: y = x + layer(x), whose backward pass keeps a part of its graph."""

    @staticmethod
    def forward(ctx, x, layer, kept, *weights):
        ctx.call, ctx.kept, ctx.x = layer.forward, kept, x.detach()
        return x + layer(x)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = ctx.x.detach().requires_grad_()
            ctx.call(x).backward(gradient)
        return gradient + x.grad, *[None] * (len(ctx.needs_input_grad) - 1)


class Reversible(nn.Module):
    def __init__(self, size: int, known: str) -> None:
        super().__init__()
        self.layer, self.known = nn.Linear(size, size).double(), known

    def forward(self, x):
        kept = {"module": self.layer, "list": [self.layer], "tuple": (self.layer,)}.get(self.known)
        given = self.layer.parameters() if self.known == "argument" else ()
        return Coupled.apply(x, self.layer, kept, *given)


@pytest.mark.parametrize("way", [fast, plain])
@pytest.mark.parametrize("known", ["argument", "module", "list", "tuple"])
@pytest.mark.parametrize("before", [None, 1.0])
def test_functions_that_write_to_the_gradients_are_an_error(before, known, way):
    """What they return hangs from what comes in, and has lost a part all the same."""
    model, x, y = build("mlp")
    model = nn.Sequential(*model[:2], Reversible(7, known), *model[2:])
    for parameter in model.parameters():
        parameter.grad = None if before is None else torch.full_like(parameter, before)
    with pytest.raises(RuntimeError, match="the backward pass of Coupled calls backward"):
        way(model, x, y, Frobenius(2))
    for parameter in model.parameters():
        left = parameter.grad if before is None else bool((parameter.grad == before).all())
        assert left is (None if before is None else True)


def test_a_gradient_of_x_from_before_is_no_sign_of_one():
    model, x, _ = build("mlp")
    x = x.detach().requires_grad_()
    before = x.grad = torch.ones_like(x)
    got, want = (Frobenius("exact")(model(cubed), x) for cubed in (Cube.apply(x), x**3))
    torch.testing.assert_close(gradient(got, model), gradient(want, model))
    assert x.grad is before
    assert bool((before == 1).all())


@pytest.mark.parametrize("event", ["call", "c_return"])
def test_gradients_are_in_their_place_after_an_interrupt_at_any_moment(event):
    model, x, _ = build("mlp")
    layer = Weighted(Multiplied.apply, model(x).shape[1])
    out = layer(model(x))  # which keeps the graph of the node
    node = out.grad_fn
    kept = layer.weight.grad = torch.ones_like(layer.weight)
    own, at = {foreign.__file__, torch.utils.hooks.__file__}, 0

    def run() -> None:
        with foreign.whole([node], x):
            pass

    for at in interrupts(run, own, event):
        if layer.weight.grad is not kept:
            gc.collect()  # a context that was interrupted on its way in ends here
        assert layer.weight.grad is kept, at
    assert at > 5
