"""Statistics of Jacobians, by hand."""

import math

import pytest
import torch
from torch import nn

from jacfast.evaluation import jacobian_norm, jacobian_statistics
from tests.nets import build, parameters, rows_of


def test_statistics():
    rows = torch.tensor([[[3.0, -4.0], [0.0, 0.5]], [[0.0, 0.0], [0.0, -0.1]]])
    got = jacobian_statistics(rows, 0.5)
    assert got.near_zero.tolist() == [0.25, 1.0]  # 0.5 itself is not below the threshold
    assert got.mean_abs.tolist() == pytest.approx([7.5 / 4, 0.1 / 4])
    assert got.norm.tolist() == pytest.approx([math.sqrt(25.25), 0.1])


def test_half_precision_neither_overflows_nor_hides_nan():
    got = jacobian_statistics(torch.tensor([[6e4, 6e4], [math.nan, 0.0]]).half(), 1.0)
    assert got.norm[0].item() == pytest.approx(6e4 * math.sqrt(2), rel=1e-3)
    assert got.near_zero.tolist() == [0.0, 0.5]
    assert math.isnan(got.norm[1])


def test_the_norm_of_half_precision_rows_does_not_overflow():
    net = nn.Linear(2, 2, bias=False).half()
    net.weight.data = torch.tensor([[6e4, 0.0], [0.0, 6e4]]).half()
    want = float(net.weight.detach()[0, 0]) * math.sqrt(2)
    assert jacobian_norm(net, torch.ones(1, 2).half()) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("batch_size", [2, 250])
def test_norm(batch_size):
    model, x = build("cnn", 5)
    want = sum(float(rows_of(model, parameters(model), sample).norm()) for sample in x) / 5
    assert jacobian_norm(model, x, batch_size=batch_size) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jacobian_statistics(torch.ones(2, 3), 0.0), ValueError, "threshold must be"),
        (lambda: jacobian_statistics(torch.ones(2, 3).int(), 1.0), TypeError, "rows must be"),
        (lambda: jacobian_norm(nn.Linear(3, 2), torch.ones(0, 3)), ValueError, "x must be a non-"),
        (
            lambda: jacobian_norm(nn.Linear(3, 2), torch.ones(1, 3), batch_size=0),
            ValueError,
            "batch_size must be >= 1; got 0",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_has_no_norm(value):
    """A ReLU has a finite gradient there, which says nothing."""
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.rand(4, 3)
    x[1, 0] = value
    with pytest.warns(UserWarning, match="NaN or infinity in 1 of 4 samples, the first at 1"):
        assert math.isnan(jacobian_norm(model, x))
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"parameter 0\.weight must be finite"):
        jacobian_norm(model, torch.rand(4, 3))
