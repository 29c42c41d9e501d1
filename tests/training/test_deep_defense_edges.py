"""deep_defense_penalty where gradients vanish or are infinite, at ties, of bad logits, far away."""

import math

import pytest
import torch
from torch import Tensor, nn

from jacfast import deep_defense_penalty
from tests.training.unrolled import gradients, two_classes


class Walled(nn.Module):
    """Logits (w x_0, w x_1), but constant ones, so no gradient, where x_1 < 0."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = two_classes()

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.tensor([1.0, 0.0], dtype=x.dtype)
        return torch.where(x[:, 1:] < 0, flat, self.linear(x))


def test_a_sample_without_a_gradient_counts_with_no_perturbation(products):
    model = Walled()
    x = torch.tensor([[3.0, 4.0], [1.0, -1.0]], dtype=torch.float64)
    value = deep_defense_penalty(model, x, torch.tensor([1, 0]))
    assert products == [(False, 2), (True, 2)]  # it is not tried again
    alone = deep_defense_penalty(model, x[:1], torch.tensor([1]))
    assert value.item() == pytest.approx((alone.item() + 1) / 2)
    (grad,), (half,) = gradients(value, model), gradients(alone, model)
    torch.testing.assert_close(grad, half / 2)


def test_a_sample_with_an_infinite_gradient_counts_with_no_perturbation():
    def model(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0].sqrt(), x[:, 1]], dim=1)

    assert deep_defense_penalty(model, torch.tensor([[0.0, 1.0]]), torch.tensor([1])).item() == 1


def test_only_candidates_are_gone_to():
    """The one candidate, class 2, has the gradient of class 1; class 0 is in reach, but none."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], x[:, 1], x[:, 1] - 1], dim=1)

    x, y = torch.tensor([[0.1, 5.0]]), torch.tensor([1])
    assert deep_defense_penalty(model, x, y, candidates=2).item() == 1
    assert deep_defense_penalty(model, x, y, candidates=3).item() < 1


def test_gradients_whose_squares_vanish_are_not_usable():
    value = deep_defense_penalty(lambda x: 1e-25 * x, torch.tensor([[3.0, 4.0]]), torch.tensor([1]))
    assert value.item() == 1


def test_a_tie_has_no_derivative_and_no_nan():
    x, model = torch.tensor([[2.0, 2.0]], dtype=torch.float64), two_classes()
    value = deep_defense_penalty(model, x, torch.tensor([0]))
    assert value.item() == 1
    assert gradients(value, model)[0].abs().max() == 0


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("at", [0, 1])
def test_a_sample_that_meets_bad_logits_keeps_the_r_it_had_reached(at, label):
    """By hand: z = (0, 0.2 - exp(-t)), t = x - 1, is left along x; a step from t = 0 is 0.8 long.

    The class of the first NaN is none, whichever that is.
    """

    def model(x):
        z = torch.cat([0 * x, 0.2 - torch.exp(1 - x)], dim=1)
        z = z if label == 0 else z.flip(1)
        bad = (x > 2) & (torch.arange(2) == at)  # at 1.5 times r, and not at r
        return torch.where(bad, math.nan, z)

    x = torch.ones(1, 1, dtype=torch.float64)
    for y in (label, 1 - label):
        got = deep_defense_penalty(model, x, torch.tensor([y]), c=1.0, d=1.0, overshoot=0.5)
        assert got.item() == pytest.approx(math.exp(-1.2 if y == label else 1.2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_logits_make_it_nan(bad):
    def model(x: Tensor) -> Tensor:
        return torch.where(x[:, :1] > 4, bad, 1.0 * x)

    x = torch.tensor([[3.0, 4.0], [5.0, 12.0]])
    assert deep_defense_penalty(model, x[:1], torch.tensor([1])).isfinite()
    assert deep_defense_penalty(model, x, torch.tensor([1, 1])).isnan()


def test_the_term_of_a_hopeless_sample_is_clamped():
    """||x|| is small beside the distance to the boundary: exp(5 rho) would be infinite."""
    model = nn.Linear(2, 2, dtype=torch.float64)
    model.weight.data, model.bias.data = torch.eye(2).double(), torch.tensor([0.0, 1e5]).double()
    x = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    value = deep_defense_penalty(model, x, torch.tensor([0]))
    assert value.item() == pytest.approx(50)
    assert all(g.abs().max() == 0 for g in gradients(value, model))
    right = deep_defense_penalty(model, x, torch.tensor([1]))
    assert right.item() == 0
    assert all(g.isfinite().all() for g in gradients(right, model))
