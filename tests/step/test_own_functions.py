"""Operations of the user's own in the model, as torch.autograd.Function."""

import pytest
from torch import nn

from jacfast import Frobenius, InputGradient, Spectral
from tests.functions import Cube, CubeOnce
from tests.step.networks import build
from tests.step.steps import assert_same, fast, loss_of, plain, step


class Applied(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


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
@pytest.mark.parametrize("penalty", [Frobenius(2), InputGradient()])
@pytest.mark.parametrize("position", [0, 2])
def test_functions_that_differentiate_once_are_an_error(position, penalty, way):
    model, x, y = build("mlp")
    once = with_layer(model, position, CubeOnce.apply)

    def backward():
        loss_of(*way(once, x, y, penalty), y).backward()

    with pytest.raises(RuntimeError, match=r"differentiate twice|without a second derivative"):
        backward()
