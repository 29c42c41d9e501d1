"""What ||J||_F bounds: exact cases, brute force, and networks on which the bounds must hold."""

import math

import pytest
import torch
from torch import nn

from jacfast import jacobian
from jacfast.evaluation import (
    curvature_bound,
    distance_bounds,
    inner_distance_bound,
    mean_value_bound,
)
from tests.nets import CLASSIFIERS, build, draw


def linear(*rows):
    model = nn.Linear(len(rows[0]), len(rows), bias=False).double()
    model.weight.data = torch.tensor(rows).double()
    return model


def test_mean_value_of_a_linear_model():
    """J = W everywhere; along (1, 0) the outputs change by 3, ||W||_F^2 is 9 + 16."""
    x = draw(4, 2)
    found = mean_value_bound(linear([3.0, 0.0], [0.0, 4.0]), x, x + torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(found.left, torch.full((4,), 9.0).double())
    torch.testing.assert_close(found.right, torch.full((4,), 25.0).double())


def test_mean_value_looks_at_the_whole_way():
    """z = sin x from -pi/2 to pi/2: J is 0 at both ends and 1 in the middle."""

    def model(x):
        return torch.cat([torch.sin(x), torch.zeros_like(x)], dim=1)

    x = torch.tensor([[-math.pi / 2], [0.3]]).double()
    moved = torch.tensor([[math.pi / 2], [0.3]]).double()
    found = mean_value_bound(model, x, moved)
    torch.testing.assert_close(found.left, torch.tensor([(2 / math.pi) ** 2, 0.0]).double())
    torch.testing.assert_close(found.right, torch.tensor([1.0, math.cos(0.3) ** 2]).double())


def test_mean_value_looks_at_nine_points():
    """z = x - sin(pi x) / pi from 0 to 8: J is 2 at 1, 3, 5 and 7, and 0 at what lies between."""

    def model(x):
        return torch.cat([x - torch.sin(math.pi * x) / math.pi, torch.zeros_like(x)], dim=1)

    x = torch.zeros(1, 1).double()
    found = mean_value_bound(model, x, x + 8)
    torch.testing.assert_close(found.left, torch.ones(1).double())
    torch.testing.assert_close(found.right, torch.full((1,), 4.0).double())


@pytest.mark.parametrize("large", [300.0, 6e4])
def test_half_types_do_not_overflow(large):
    """Squares of their entries, and differences of their logits, can be beyond what they hold."""
    model, x = linear([large, 0.0], [-large, 0.0]).half(), torch.ones(1, 2).half()
    size = float(torch.tensor(large).half())
    for first in (-1.0, 0.5):
        found = mean_value_bound(model, x, torch.tensor([[first, 1.0]]).half())
        assert (float(found.left), float(found.right)) == (2 * size**2, 2 * size**2)
    bent = linear([1.0, 0.0], [0.0, 0.0]).half()
    curved = curvature_bound(bent, torch.tensor([[large, 0.0]]).half())
    assert (float(curved.left), float(curved.right)) == (size**2, size**2)
    assert float(inner_distance_bound(model, nn.Identity(), x)) == size


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_bounds_hold_on_networks(name):
    model, x = build(name, 12)
    model.eval()
    moved = x + 0.1 * draw(*x.shape).to(x)
    for found in (mean_value_bound(model, x, moved), curvature_bound(model, x)):
        assert bool((found.left <= found.right * 1.01).all())
        assert int((found.left > 0).sum()) > 6  # one sample of the mlp has no active neuron


def test_curvature_by_brute_force():
    model, x = build(CLASSIFIERS[0], 5)
    model.eval()
    found = curvature_bound(model, x)
    rows = jacobian(model, x).flatten(2)
    for i in range(5):
        along = [float(row @ x[i].flatten()) ** 2 for row in rows[i]]
        want = max(a - b for a in along for b in along)
        assert float(found.left[i]) == pytest.approx(want)
        want = float(rows[i].norm() ** 2 * x[i].norm() ** 2)
        assert float(found.right[i]) == pytest.approx(want)


def orthonormal(seed=0):
    torch.manual_seed(seed)
    inner = nn.Sequential(nn.Linear(6, 9), nn.Tanh()).double()
    last = nn.Linear(9, 4).double()
    nn.init.orthogonal_(last.weight)
    return nn.Sequential(inner, last), inner


def test_the_inner_bound_is_below_the_outer_one():
    model, inner = orthonormal()
    x = draw(30, 6)
    found, outer = inner_distance_bound(model, inner, x), distance_bounds(model, x).frobenius
    assert bool((found <= outer * (1 + 1e-12)).all())
    i = 7
    z = model(x[i : i + 1])[0].detach().sort().values
    rows = torch.autograd.functional.jacobian(lambda row: inner(row[None])[0], x[i])
    want = float((z[-1] - z[-2]) / (math.sqrt(2) * rows.norm()))
    assert float(found[i]) == pytest.approx(want)


def test_without_orthonormal_rows_it_is_no_bound():
    model, inner = orthonormal()
    model[1].weight.data *= 5
    x = draw(30, 6)
    assert bool((inner_distance_bound(model, inner, x) > distance_bounds(model, x).frobenius).any())


def test_an_inner_layer_that_does_not_move():
    inner = linear([0.0, 0.0], [0.0, 0.0])
    model = nn.Sequential(inner, nn.Linear(2, 2).double())
    assert inner_distance_bound(model, inner, draw(3, 2)).tolist() == [math.inf] * 3


def test_errors():
    model, x = linear([1.0, 0.0], [0.0, 1.0]), draw(3, 2)
    with pytest.raises(ValueError, match=r"moved must have the shape of x, \[3, 2\]; got \[2, 2\]"):
        mean_value_bound(model, x, x[:2])
    for call in (
        lambda x: mean_value_bound(model, x, x),
        lambda x: curvature_bound(model, x),
        lambda x: inner_distance_bound(model, model, x),
    ):
        with pytest.raises(TypeError, match="x must be"):
            call(x.long())
    for moved, message in ((None, "moved must be a torch.Tensor"), (x.float(), "the dtype of x")):
        with pytest.raises(TypeError, match=message):
            mean_value_bound(model, x, moved)
    for call in (curvature_bound, lambda one, x: inner_distance_bound(one, model, x)):
        with pytest.raises(ValueError, match="at least 2 logits per sample; got 1"):
            call(lambda x: x[:, :1], x)


def test_mean_value_with_an_impossible_class():
    """It moves nowhere, and its rows are zero."""
    plain = linear([3.0, 0.0], [0.0, 4.0])
    masked = lambda x: nn.functional.pad(plain(x), (0, 1), value=-math.inf)  # noqa: E731
    x = draw(4, 2)
    for found, want in zip(
        mean_value_bound(masked, x, x + 0.5), mean_value_bound(plain, x, x + 0.5), strict=True
    ):
        torch.testing.assert_close(found, want)
