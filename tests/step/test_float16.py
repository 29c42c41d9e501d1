"""A scaled loss in float16: its scale must reach every sweep, or small gradients are lost."""

import copy

import pytest
import torch
from torch import Tensor, nn

from jacfast import Frobenius, forward_with_penalty
from tests.nets import relative_error
from tests.step.networks import build
from tests.step.steps import fast, gradient, plain

SCALE = 2.0**16


def small(network: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network whose last layer is a thousandth of what it was, so is J, and its batch."""
    model, x, y = build(network, dtype=torch.float32)
    with torch.no_grad():
        list(model.eval().modules())[-1].weight.mul_(1e-3)
    return model, x, y


class Casting(nn.Module):
    """Float16 inside, without autocast."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.half()).float()


def scaled(way, model, x, y, penalty, autocast: bool) -> Tensor:
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        _, value = way(model, x, y, penalty)
    return gradient(SCALE * value, model).double() / SCALE


@pytest.mark.parametrize("penalty", [Frobenius(1), Frobenius("exact")])
@pytest.mark.parametrize("how", ["autocast", "casting", "half"])
@pytest.mark.parametrize("network", ["mlp", "tutorial"])
def test_no_more_is_lost_than_in_the_one_line_way(network, how, penalty):
    model, x, y = small(network)
    torch.manual_seed(0)
    double = copy.deepcopy(model).double()
    want = gradient(plain(double, x.double(), y, penalty)[1], double)
    if how == "casting":
        model = Casting(model)
    if how == "half":
        model, x = model.half(), x.half()
    zeros, errors = [], []
    for way in (fast, plain):
        got = scaled(way, model, x.detach(), y, penalty, how == "autocast")
        zeros.append(float((got[want != 0] == 0).double().mean()))
        errors.append(relative_error(got, want))
    assert zeros[0] <= zeros[1] + 0.01
    assert errors[0] <= 1.5 * errors[1] + 1e-3
    assert zeros[1] < 0.5  # else there would be nothing to lose


def test_bfloat16_and_float32_do_without():
    """Their smallest numbers are the same, and the sweeps are collected at once."""
    model, x, _ = small("tutorial")
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            _, value = forward_with_penalty(model, x, penalty=Frobenius(1))
        work = value.grad_fn.next_functions[0][0].pending
        kept = sum(len(part.totals) for part in work.parts)
        assert kept == (dtype == torch.float16)
