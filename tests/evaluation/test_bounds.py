"""The first-order bounds of the paper: exact where the model is linear, ordered everywhere."""

import itertools
import math

import pytest
import torch
from torch import nn

from jacfast import deepfool, jacobian
from jacfast.evaluation import distance_bounds, inner_distance_bound, mean_value_bound
from tests.nets import CLASSIFIERS, build, draw


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_against_the_jacobian(name):
    model, x = build(name, 5)
    model.eval()
    bounds = distance_bounds(model, x, batch_size=2)
    rows, z = jacobian(model, x).detach().flatten(2), model(x).detach().flatten(1)
    own = z.argmax(dim=1)
    for i in range(len(x)):
        w = (rows[i] - rows[i, own[i]]).norm(dim=1)
        f = (z[i, own[i]] - z[i]).abs()
        others = [k for k in range(z.shape[1]) if k != own[i]]
        torch.testing.assert_close(bounds.boundary[i, others], (f / w)[others])
        assert bounds.boundary[i, own[i]] == math.inf
        torch.testing.assert_close(bounds.nearest[i], (f / w)[others].min())
        want = f[others].min() / (math.sqrt(2) * rows[i].norm())
        torch.testing.assert_close(bounds.frobenius[i], want)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_frobenius_bound_is_never_above_the_nearest_boundary(name):
    model, x = build(name, 40)
    bounds = distance_bounds(model.eval(), x)
    assert bool((bounds.frobenius <= bounds.nearest * (1 + 1e-12)).all())
    assert bool((bounds.frobenius > 0).all())


def test_the_frobenius_bound_is_attained():
    """Two classes of opposite gradients: ||w_1 - w_2|| = 2 ||w|| = sqrt(2) ||J||_F."""
    model = nn.Linear(3, 2, bias=False).double()
    model.weight.data = torch.tensor([[1.0, 2.0, 2.0], [-1.0, -2.0, -2.0]]).double()
    x = draw(10, 3)
    bounds = distance_bounds(model, x)
    torch.testing.assert_close(bounds.frobenius, bounds.nearest)
    torch.testing.assert_close(bounds.nearest, (x @ model.weight.data[0]).abs() / 3)


def test_differences_of_logits_beyond_what_half_types_hold():
    """float16 ends at 65504, and the distance is that difference by a gradient of length 2."""
    model = nn.Linear(2, 2).half()
    model.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).half()
    model.bias.data = torch.tensor([6e4, -6e4]).half()
    bounds = distance_bounds(model, torch.zeros(1, 2).half())
    assert bounds.nearest.tolist() == [6e4]
    assert bounds.frobenius.tolist() == [6e4]


@pytest.mark.parametrize("power", [-80, 80])
def test_the_scale_of_the_logits_plays_no_part(power):
    """Squares of the gradients vanish, or overflow, in float32."""
    model, x = build("smooth_mlp", 6, torch.float32)
    for found, want in zip(
        distance_bounds(lambda x: model(x) * 2.0**power, x), distance_bounds(model, x), strict=True
    ):
        torch.testing.assert_close(found, want)


def test_of_a_linear_model_deepfool_finds_the_nearest_boundary():
    model, x = nn.Linear(6, 5).double(), draw(30, 6)
    found = deepfool(model, x, overshoot=1e-6, candidates=None)
    torch.testing.assert_close(found.norm, distance_bounds(model, x).nearest, rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_and_the_model_afterwards(dtype):
    model, x = build("cnn", 3, dtype)
    model.train()
    bounds = distance_bounds(model, x)
    assert {b.dtype for b in bounds} == {torch.float32}
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not x.requires_grad


def test_a_model_in_training_mode_is_measured_in_eval_mode():
    model = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Dropout(0.9), nn.Linear(40, 3)).double()
    x = draw(4, 6)
    want = distance_bounds(model.eval(), x)
    with pytest.warns(UserWarning, match="dropout or batch-norm in training mode"):
        got = distance_bounds(model.train(), x)
    for found, own in zip(got, want, strict=True):
        assert torch.equal(found, own)


def test_the_dtype_is_that_of_x_also_where_logits_have_another():
    model, x = build("mlp", 3, torch.float32)
    with torch.no_grad():  # of the caller
        bounds = distance_bounds(lambda x: model(x.float()), x.double())
    assert {b.dtype for b in bounds} == {torch.float64}
    torch.testing.assert_close(bounds.nearest.float(), distance_bounds(model, x).nearest)


def test_a_class_of_equal_gradient_is_never_reached():
    model = nn.Linear(2, 3).double()
    model.weight.data = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()
    model.bias.data = torch.tensor([5.0, 4.0, 0.0]).double()
    bounds = distance_bounds(model, torch.zeros(1, 2).double())
    torch.testing.assert_close(
        bounds.boundary, torch.tensor([[math.inf, math.inf, 5 / math.sqrt(2)]]).double()
    )
    assert bounds.nearest.item() == pytest.approx(5 / math.sqrt(2))


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (torch.ones(2, 6).long(), {}, TypeError, "x must be floating point"),
        (torch.ones(2, 6), {"batch_size": 0}, ValueError, "batch_size must be >= 1; got 0"),
    ],
)
def test_errors(x, options, error, message):
    with pytest.raises(error, match=message):
        distance_bounds(nn.Linear(6, 3), x, **options)
    with pytest.raises(ValueError, match="at least 2 logits per sample; got 1"):
        distance_bounds(nn.Linear(6, 1), torch.ones(2, 6))


class NaNSlope(nn.Module):
    """Finite logits whose gradient is NaN where the first entry of x is 0.25."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + 0 * (x[:, :1] - 0.25).abs().sqrt()


def _bounds_of(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    bounds = distance_bounds(model, x)
    return [bounds.nearest, bounds.frobenius, inner_distance_bound(model, model, x)]


def test_a_distance_that_nobody_knows_is_not_infinite():
    """A NaN gradient, or logits that are NaN: infinitely far would be infinitely robust."""
    model, x = NaNSlope(), draw(3, 6)
    alone = _bounds_of(model, x[:1])
    x[1, 0] = 0.25
    for found, own in zip(_bounds_of(model, x), alone, strict=True):
        assert found.isnan().tolist() == [False, True, False]
        torch.testing.assert_close(found[:1], own)
    for bad, one in itertools.product((math.nan, math.inf), (False, True)):

        def spoilt(x: torch.Tensor, bad: float = bad, one: bool = one) -> torch.Tensor:
            z = model.layer(x)
            here = (x[:, :1] == 0.25) & torch.tensor([True] + [not one] * (z.shape[1] - 1))
            return torch.where(here, torch.full_like(z, bad), z)

        bounds = distance_bounds(spoilt, x)
        assert bounds.nearest.isnan().tolist() == bounds.frobenius.isnan().tolist()
        assert bounds.nearest.isnan().tolist() == [False, True, False]


def test_classes_that_are_masked_are_infinitely_far():
    layer, x = nn.Linear(6, 4).double(), draw(3, 6)
    mask = torch.tensor([False, True, False, False])
    bounds = distance_bounds(lambda x: layer(x).masked_fill(mask, -math.inf), x)
    assert bool((bounds.boundary[:, 1] == math.inf).all())
    assert bool(bounds.nearest.isfinite().all())


def test_a_parameter_that_is_nan_is_named():
    model = nn.Linear(6, 4)
    model.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="parameter weight must be finite"):
        distance_bounds(model, torch.rand(3, 6))


def test_the_way_from_an_image_that_is_nan_is_unknown():
    layer, x = nn.Linear(6, 4).double(), draw(2, 6)
    x[0, 0] = math.nan
    with pytest.warns(UserWarning, match="NaN or infinity in 1 of 2"):
        left = mean_value_bound(layer, x, x + 0.1).left
    assert left.isnan().tolist() == [True, False]
