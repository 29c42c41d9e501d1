"""S, its gradient, curvature and Hessian, against torch.func in float64."""

import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from jacfast.evaluation import (
    curvature,
    decision_function,
    decision_gradient,
    decision_hessian,
    hessian,
    hessian_eigenvalues,
)
from tests.nets import CLASSIFIERS, build, draw

SMOOTH = ["smooth_mlp", "layer_norm_gelu", "group_norm_silu", "attention"]


def labels(x):
    return torch.arange(len(x)) % 5


def s_of(model, label):
    """Return S as a function of one sample, written with max and without our own parts."""

    def s(sample):
        z = model(sample[None])[0].flatten()
        keep = torch.arange(len(z)) != label
        return z[label] - z[keep].max()

    return s


def true_hessian(model, x, y):
    size = x[0].numel()
    found = [torch.func.hessian(s_of(model, k))(s).reshape(size, size) for s, k in zip(x, y)]  # noqa: B905
    return torch.stack(found).detach()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_value_and_gradient(name):
    model, x = build(name, 5)
    model.eval()
    y = labels(x)
    want = [torch.func.grad_and_value(s_of(model, int(k)))(s) for s, k in zip(x, y, strict=True)]
    torch.testing.assert_close(decision_function(model, x, y), torch.stack([v for _, v in want]))
    torch.testing.assert_close(decision_gradient(model, x, y), torch.stack([g for g, _ in want]))


def test_value_at_a_tie_and_of_an_impossible_class():
    z = torch.tensor([[1.0, 1.0, 0.0], [1.0, float("-inf"), 0.0], [2.0, float("-inf"), -1.0]])
    got = decision_function(lambda x: 1.0 * x, z, torch.tensor([0, 0, 2]))
    assert got.tolist() == [0.0, 1.0, -3.0]


def test_where_every_other_class_is_impossible():
    """S is infinite there, of that sample alone, and what it runs against is not y itself."""
    inf = float("inf")
    z = torch.tensor([[1.0, -inf, -inf], [2.0, 5.0, 3.0], [-inf, -inf, 1.0]])
    y = torch.tensor([0, 1, 2])
    assert decision_function(lambda x: 1.0 * x, z, y).tolist() == [inf, 2.0, inf]
    gradient = decision_gradient(lambda x: 1.0 * x, z, y)
    assert gradient.tolist() == [[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]]


@pytest.mark.parametrize("name", SMOOTH)
def test_hessian(name):
    model, x = build(name, 2)
    model.eval()
    y = labels(x)
    want = true_hessian(model, x, y)
    torch.testing.assert_close(decision_hessian(model, x, y), want, rtol=1e-8, atol=1e-10)
    near = decision_hessian(model, x, y, step=1e-4)
    torch.testing.assert_close(near, want, rtol=0, atol=1e-7)


@pytest.mark.parametrize("step", [None, 0.5])
def test_hessian_of_a_quadratic_is_its_matrix(step):
    """z_0 = x^T A x / 2, z_1 = 0: (A + A^T) / 2, also by differences, in the order of flatten."""
    a = draw(6, 6)

    def model(x):
        flat = x.flatten(1)
        s = (flat @ a * flat).sum(dim=1, keepdim=True) / 2
        return torch.cat([s, 0 * s], dim=1)

    x = draw(2, 3, 1, 2).transpose(1, 3)  # [2, 2, 1, 3], not contiguous
    got = decision_hessian(model, x, torch.tensor([0, 1]), step=step)
    half = (a + a.T) / 2
    torch.testing.assert_close(got, torch.stack([half, -half]))
    assert got.equal(got.mT)


@pytest.mark.parametrize("step", [None, 0.25])
def test_hessian_of_a_linear_network_is_zero(step):
    weight = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    got = decision_hessian(
        lambda x: x @ weight, draw(2, 2).float(), torch.tensor([0, 1]), step=step
    )
    assert got.tolist() == [[[0.0] * 2] * 2] * 2
    assert got.dtype == torch.float64


@pytest.mark.parametrize("name", SMOOTH)
def test_eigenvalues_from_the_whole_matrix(name):
    model, x = build(name, 3)
    model.eval()
    y = labels(x)
    want = torch.linalg.eigvalsh(true_hessian(model, x, y))
    order = want.abs().argsort(dim=1, descending=True)
    got = hessian_eigenvalues(model, x, y)
    torch.testing.assert_close(got.sort(dim=1).values, want, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got.abs(), want.abs().gather(1, order), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("k", [1, 4, 99, 100])
def test_lanczos_against_torch_func(k):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    x, y = draw(2, 100), torch.tensor([2, 0])
    want = torch.linalg.eigvalsh(true_hessian(model, x, y))
    want = want.gather(1, want.abs().argsort(dim=1, descending=True))[:, :k]
    got = hessian_eigenvalues(model, x, y, k)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_lanczos_runs_where_it_should(monkeypatch):
    monkeypatch.setattr(hessian, "_matrix", None)
    model = nn.Sequential(nn.Linear(65, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    assert hessian_eigenvalues(model, draw(1, 65), torch.tensor([1]), 2).shape == (1, 2)


def test_without_scipy_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    model, y = nn.Linear(65, 2), torch.tensor([1])
    with pytest.raises(ImportError, match=r"run pip install 'jacfast\[evaluation\]'$"):
        hessian_eigenvalues(model, torch.rand(1, 65), y, 2)


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("width", [8, 80])
def test_of_a_piecewise_linear_network_they_are_zero(width, k):
    model = nn.Sequential(nn.Linear(width, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    got = hessian_eigenvalues(model, draw(2, width), torch.tensor([0, 1]), k)
    assert got.shape == (2, k or width)
    assert not bool(got.any())


def test_of_a_linear_network_they_are_zero():
    got = hessian_eigenvalues(nn.Linear(4, 3), draw(2, 4).float(), torch.tensor([0, 1]))
    assert got.tolist() == [[0.0] * 4] * 2


def test_a_step_sees_the_bend_of_a_relu():
    """S = relu(x_0) at x_0 = 0.1: slope 0 below 0, 1 above, so (1 - 0)/(2 h) for h > 0.1."""

    def model(x):
        rectified = x[:, :1].relu()
        return torch.cat([rectified, 0 * rectified], dim=1)

    x, y = torch.tensor([[0.1, 3.0]], dtype=torch.float64), torch.tensor([0])
    assert hessian_eigenvalues(model, x, y).tolist() == [[0.0, 0.0]]
    assert hessian_eigenvalues(model, x, y, step=0.05).tolist() == [[0.0, 0.0]]
    assert hessian_eigenvalues(model, x, y, step=0.25).tolist() == [[2.0, 0.0]]
    assert hessian_eigenvalues(model, x, y, 1, step=0.25).tolist() == [[2.0]]
    assert decision_hessian(model, x, y, step=0.25).tolist() == [[[2.0, 0.0], [0.0, 0.0]]]


def test_differences_that_are_not_symmetric_are_made_so():
    """S = relu(x_0 + 2 x_1 - 0.3) at 0: with h = 0.2 e_1 alone reaches the bend, with (1, 2)/2h."""

    def model(x):
        rectified = (x @ torch.tensor([[1.0], [2.0]]).to(x) - 0.3).relu()
        return torch.cat([rectified, 0 * rectified], dim=1)

    x, y = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])
    want = torch.tensor([[1 + 1.25**0.5, 1 - 1.25**0.5]]).double() / 0.4
    torch.testing.assert_close(hessian_eigenvalues(model, x, y, step=0.2), want)


def test_a_small_step_tends_to_the_exact_values():
    model, x = build("smooth_mlp", 3)
    y = labels(x)
    exact = hessian_eigenvalues(model, x, y)
    torch.testing.assert_close(
        hessian_eigenvalues(model, x, y, step=1e-4), exact, rtol=0, atol=1e-7
    )


def test_curvature_of_a_parabola():
    """S(x) = a x^2 / 2 along d: S' = a t, S'' = a."""

    def model(x):
        s = 3 * x[:, :1].square() / 2
        return torch.cat([s, 0 * s], dim=1)

    x = torch.tensor([[0.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    y, along = torch.tensor([0, 0]), torch.tensor([5.0, 0.0])
    want = torch.tensor([3.0, 3.0 / 37**1.5], dtype=torch.float64)
    torch.testing.assert_close(curvature(model, x, y, along), want)
    torch.testing.assert_close(curvature(model, x, y, along.expand(2, 2)), want)
    torch.testing.assert_close(curvature(model, x, y, along, step=0.1), want)
    torch.testing.assert_close(curvature(model, x, 1 - y, along), want)  # bent the other way
    assert curvature(model, x, y, torch.tensor([0.0, 1.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_left_behind(dtype):
    model, x = build("cnn", 2, dtype)
    model.train()
    state = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    y = labels(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = hessian_eigenvalues(model, x.movedim(1, -1).contiguous().movedim(-1, 1), y, 2)
        assert decision_gradient(model, x, y).dtype == decision_function(model, x, y).dtype == dtype
    assert got.dtype == torch.float64
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), state[0])
    assert repr(np.random.get_state()) == state[1]  # noqa: NPY002


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x, y: hessian_eigenvalues(m, x, y, 0), ValueError, "k must be >= 1; got 0"),
        (
            lambda m, x, y: hessian_eigenvalues(m, x, y, 2.5),
            TypeError,
            "k must be an integer; got 2.5",
        ),
        (lambda m, x, y: hessian_eigenvalues(m, x, y, 7), ValueError, r"k must be in 1 .. D = 6"),
        (lambda m, x, y: hessian_eigenvalues(m, x, y, step=0.0), ValueError, "step must be finite"),
        (lambda m, x, y: decision_hessian(m, x, y, step=-1.0), ValueError, "step must be finite"),
        (lambda m, x, y: decision_hessian(m, x, y[:1]), ValueError, "y must have shape"),
        (lambda m, x, y: decision_hessian(m, x / 0, y), FloatingPointError, "Hessian of S"),
        (lambda m, x, y: hessian_eigenvalues(m, x / 0, y), FloatingPointError, "Hessian of S"),
        (lambda m, x, y: decision_function(m, x, y + 9), ValueError, "y must lie in 0"),
        (lambda m, x, y: decision_gradient(m, x.long(), y), TypeError, "x must be floating"),
        (lambda m, x, y: decision_function(nn.Linear(6, 1), x, y), ValueError, "at least 2 logits"),
        (lambda m, x, y: curvature(m, x, y, x[0, :2]), ValueError, "direction must have the shape"),
        (lambda m, x, y: curvature(m, x, y, None), TypeError, "direction must be a torch.Tensor"),
        (
            lambda m, x, y: curvature(m, x, y, x, step="1"),
            TypeError,
            "step must be a number; got str",
        ),
        (lambda m, x, y: curvature(m, x, y, 0 * x), ValueError, "direction must be finite"),
    ],
)
def test_errors(call, error, message):
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    with pytest.raises(error, match=message):
        call(model, draw(2, 6).float(), torch.tensor([0, 1]))


def test_a_sample_with_nan_has_no_gradient():
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    want = decision_gradient(model, x, y)
    x[1, 0] = float("nan")
    with pytest.warns(UserWarning, match="NaN or infinity in 1 of 4 samples, the first at 1"):
        got = decision_gradient(model, x, y)
    assert bool(got[1].isnan().all())
    keep = [0, 2, 3]
    torch.testing.assert_close(got[keep], want[keep])


def test_a_sample_with_nan_that_the_model_does_not_see_has_no_gradient():
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    x[1, 2] = float("nan")
    with pytest.warns(UserWarning, match="NaN or infinity in 1 of 4 samples, the first at 1"):
        got = decision_gradient(lambda x: x[:, :2], x, y)
    assert got.isnan().all(dim=1).tolist() == [False, True, False, False]
    assert got.isnan().any(dim=1).tolist() == [False, True, False, False]
