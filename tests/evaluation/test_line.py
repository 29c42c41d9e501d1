"""S and its slope along a line, against formulas and torch.func."""

import pytest
import torch
from torch import nn

from jacfast.evaluation import decision_line, line
from jacfast.evaluation.line import crossing
from tests.nets import build, draw

T = torch.tensor([-1.0, 0.0, 0.5, 2.0], dtype=torch.float64)


def parabola(x):
    """Return logits with S = 3 x_0^2 / 2 for class 0."""
    s = 3 * x[:, :1].square() / 2
    return torch.cat([s, 0 * s], dim=1)


def test_a_parabola():
    x, y = torch.tensor([[0.25, 9.0]], dtype=torch.float64), torch.tensor([0])
    t = T.clone()
    found = decision_line(parabola, x, y, torch.tensor([2.0, 5.0]), t)
    t.zero_()  # the result keeps its own
    place = 0.25 + 2 * T  # x_0 on the line
    assert found.t.equal(T)
    torch.testing.assert_close(found.value, 1.5 * place**2)
    torch.testing.assert_close(found.slope, 6 * place)
    other = decision_line(parabola, x, torch.tensor([1]), torch.tensor([[2.0, 5.0]]), T.tolist())
    torch.testing.assert_close(other.value, -found.value)
    torch.testing.assert_close(other.slope, -found.slope)


def test_a_linear_model_has_a_straight_line_up_to_where_the_runner_up_changes():
    model = nn.Linear(2, 3).double()
    model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    model.bias.data = torch.tensor([4.0, 0.0, -1.0], dtype=torch.float64)
    t = torch.tensor([-2.0, 0.0, 1.0, 2.5, 4.0], dtype=torch.float64)
    found = decision_line(model, torch.zeros(1, 2).double(), torch.tensor([0]), torch.eye(2)[0], t)
    assert found.value.tolist() == [2, 4, 3, 0, -3]  # 4 + t until t = 1/3, then 5 - 2 t
    assert found.slope.tolist() == [1, 1, -2, -2, -2]


@pytest.mark.parametrize("name", ["cnn", "smooth_mlp", "attention"])
def test_against_torch_func(name, monkeypatch):
    monkeypatch.setattr(line, "BATCH", 2)
    model, x = build(name, 1)
    model.eval()
    x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    d = draw(*x.shape[1:])

    def s(t):
        z = model(x + t * d)[0]
        return z[3] - torch.cat([z[:3], z[4:]]).max()

    found = decision_line(model, x, torch.tensor([3]), d, T)
    want = [torch.func.grad_and_value(s)(t) for t in T]
    torch.testing.assert_close(found.value, torch.stack([value for _, value in want]).detach())
    torch.testing.assert_close(found.slope, torch.stack([slope for slope, _ in want]).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_left_behind_and_its_dtype(dtype):
    model, x = build("mlp", 1, dtype)
    model.train()
    d, y = draw(6, dtype=dtype), torch.tensor([1])
    before, t = x.clone(), T.clone().requires_grad_()
    found = decision_line(model, x, y, d, t)
    want = decision_line(model.double(), x.double(), y, d.double(), T)
    assert all(tensor.dtype == torch.float64 and not tensor.requires_grad for tensor in found)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(found.value, want.value, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.slope, want.slope, rtol=tolerance, atol=tolerance)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert x.equal(before)
    assert not x.requires_grad


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([3.0, 1.0, -1.0, 5.0, -5.0], 1.5),
        ([1.0, 0.0, 1.0, 1.0, 1.0], 1.0),
        ([1.0, 2.0, 3.0, 2.0, 1.0], None),
        ([0.0, 1.0, -1.0, -1.0, -1.0], None),
        ([float("nan"), 1.0, 1.0, 1.0, -1.0], 3.5),
        ([1.0, float("nan"), -1.0, 1.0, -1.0], None),  # somewhere before, who knows where
    ],
)
def test_crossing(values, want):
    assert crossing(torch.arange(5), torch.tensor(values)) == want


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(2, 2), "y": torch.tensor([0, 1])}, ValueError, "x must be one sample"),
        ({"x": torch.ones(1, 2).long()}, TypeError, "x must be floating"),
        ({"y": torch.tensor([2])}, ValueError, "y must lie in 0"),
        ({"y": torch.tensor([0.0])}, TypeError, "y must be an int64"),
        ({"y": [0]}, TypeError, "y must be an int64 tensor of labels; got list"),
        ({"direction": torch.ones(3)}, ValueError, "direction must have the shape"),
        ({"direction": torch.zeros(2)}, ValueError, "direction must be finite and not zero"),
        ({"t": []}, ValueError, "t must be"),
        ({"t": T[None]}, ValueError, "t must be"),
        ({"t": [0.0, float("inf")]}, ValueError, "t must be"),
    ],
)
def test_errors(change, error, message):
    good = {"x": torch.ones(1, 2), "y": torch.tensor([0]), "direction": torch.ones(2), "t": T}
    with pytest.raises(error, match=message):
        decision_line(parabola, **{**good, **change})
