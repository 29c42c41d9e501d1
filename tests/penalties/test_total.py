"""What is summed over a batch of rows: by PyTorch where they are few, else by `row_norm`."""

import pytest
import torch

from jacfast import CrossLipschitz, Frobenius, InputGradient
from jacfast.ops import row_norm
from jacfast.penalties import base
from tests.nets import relative_error

PENALTIES = [Frobenius(), CrossLipschitz(), InputGradient(), InputGradient(norm=1)]


@pytest.fixture
def rows(monkeypatch):
    """Return how many rows each call of `row_norm` has had."""
    calls = []
    monkeypatch.setattr(base, "row_norm", lambda g, kind: calls.append(len(g)) or row_norm(g, kind))
    return calls


@pytest.mark.parametrize("few", [23, 24])
@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_ways_and_their_derivatives(few, penalty, dtype, rows, monkeypatch):
    monkeypatch.setattr(base, "FEW", few)
    torch.manual_seed(0)
    g = torch.randn(2, 3, 2, 2, dtype=dtype).requires_grad_()
    total = penalty.total(g)
    (first,) = torch.autograd.grad(total, g, create_graph=True)
    assert bool(rows) == (few < g.numel() or not penalty.summed)
    exact = g.detach().double()
    want = exact.abs().sum() if penalty.kind == "sumabs" else exact.square().sum()
    slope = exact.sign() if penalty.kind == "sumabs" else 2 * exact
    rounding = 1e-15 if dtype == torch.float64 else 1e-6
    assert relative_error(total.double(), want) < rounding
    assert relative_error(first.double(), slope) < (1e-2 if dtype == torch.bfloat16 else rounding)
    if penalty.summed:
        (second,) = torch.autograd.grad(first.sum(), g)
        assert torch.equal(second, torch.full_like(g, 2))


def test_samples_that_are_wanted_one_by_one_are_measured_one_by_one(rows):
    g = torch.randn(2, 3, 4)
    found = Frobenius(reduction="none").total(g)
    assert relative_error(found, g.square().sum((0, 2))) < 1e-6
    assert rows == [6]
