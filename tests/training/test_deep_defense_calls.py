"""deep_defense_penalty: how often and in which state it calls the model, and what it refuses."""

import copy
import math

import pytest
import torch
from torch import nn

from jacfast import deep_defense_penalty
from tests.nets import build
from tests.training.unrolled import problem, two_classes, unrolled_penalty


def with_modes() -> nn.Sequential:
    """Return a network in training mode whose batch-norm and dropout have two meanings."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(16)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    model = nn.Sequential(nn.Linear(6, 16), norm, nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))
    model[4].weight.requires_grad_(False)
    return model.double().train()


def test_it_is_evaluated_in_eval_mode_and_left_as_it_was():
    model, x = with_modes(), build("mlp", 8)[1].requires_grad_()
    y = torch.arange(8) % 5
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    value = deep_defense_penalty(model, x, y)
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, before[name]) for name, a in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    value.backward()
    assert x.grad is None
    assert [p.grad is None for p in model.parameters()] == [False] * 4 + [True, False]
    still = copy.deepcopy(model).eval()
    assert torch.equal(deep_defense_penalty(still, x, y), value)


def test_modes_come_back_after_an_error():
    model = with_modes()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        deep_defense_penalty(model, torch.randn(2, 7).double(), torch.tensor([0, 1]))
    assert all(module.training for module in model.modules())


def test_without_gradients_it_is_a_plain_number():
    model, x, y = problem("smooth_mlp")
    want = deep_defense_penalty(model, x, y)
    with torch.no_grad():
        got = deep_defense_penalty(model, x, y)
    assert torch.equal(got, want)
    assert want.requires_grad
    assert not got.requires_grad


def test_what_it_costs(products):
    """K - 1 rows without a graph and one with it per step, and only for samples that go on."""
    model, x, y = problem("smooth_mlp", 40)  # more samples than are batched over rows
    _, steps = unrolled_penalty(model, x, y)
    deep_defense_penalty(model, x, y)
    left = [sum(s > number for s in steps) for number in range(max(steps))]
    assert len(set(left)) > 1
    assert [n for graph, n in products if graph] == left
    assert [n for graph, n in products if not graph] == [n for n in left for _ in range(4)]


M, X, Y = two_classes(), torch.rand(3, 2, dtype=torch.float64) + 0.1, torch.tensor([0, 1, 0])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((M, X.long(), Y), {}, TypeError, "x must be floating point"),
        ((M, X[0], Y), {}, ValueError, "x must be a non-empty batch"),
        ((M, 0 * X, Y), {}, ValueError, "x must have no all-zero sample"),
        ((M, X, Y.int()), {}, TypeError, "y must be an int64 tensor"),
        ((M, X, Y[:2]), {}, ValueError, r"y must have shape \[N\] = \[3\]; got \[2\]"),
        ((M, X, Y + 1), {}, ValueError, r"y must lie in 0 .. K - 1 = 1; got 1 .. 2"),
        ((nn.Linear(2, 1).double(), X, Y), {}, ValueError, "at least 2 logits"),
        ((M, X, Y), {"c": 0.0}, ValueError, "c must be finite and > 0; got 0.0"),
        ((M, X, Y), {"d": math.inf}, ValueError, "d must be finite and > 0; got inf"),
        ((M, X, Y), {"steps": 0}, ValueError, "steps must be >= 1; got 0"),
        ((M, X, Y), {"overshoot": -0.1}, ValueError, "overshoot must be finite and >= 0"),
        ((M, X, Y), {"candidates": 1}, ValueError, "candidates must be >= 2"),
        ((lambda x: x.detach(), X, Y), {}, ValueError, "outputs do not depend on x"),
        (
            (nn.BatchNorm1d(2, track_running_stats=False).double(), X, Y),
            {},
            RuntimeError,
            "batch-norm without running statistics .* take another normalisation$",
        ),
    ],
)
def test_errors(arguments, options, error, words):
    with pytest.raises(error, match=words):
        deep_defense_penalty(*arguments, **options)


def test_under_inference_mode_and_torch_func():
    with torch.inference_mode(), pytest.raises(RuntimeError, match="which forbids gradients"):
        deep_defense_penalty(M, X, Y)
    with pytest.raises(RuntimeError, match="deep_defense_penalty must be called outside"):
        torch.func.grad(lambda x: deep_defense_penalty(M, x, Y))(X)
