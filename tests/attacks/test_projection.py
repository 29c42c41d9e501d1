"""The shortest vector of a box and half-spaces, against another solver and against its rules."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from jacfast.attacks.projection import shortest
from jacfast.attacks.projection_max import shortest_max

DTYPES = [torch.float64, torch.float32]


def problem(size: int, cuts: int, alike: float, samples: int = 8, inf: bool = False):
    """Return low, high, w, c of problems that have a solution; `alike`: how near cuts are."""
    x = torch.rand(samples, size, dtype=torch.float64)
    low, high = -x, 1 - x
    base = torch.randn(samples, 1, size, dtype=torch.float64)
    w = alike * base + (1 - alike) * torch.randn(samples, cuts, size, dtype=torch.float64)
    w /= w.norm(dim=2, keepdim=True)
    inner = low + (high - low) * torch.rand_like(low)
    c = (w @ inner[..., None])[..., 0]
    if inf:
        low, high = torch.full_like(low, -torch.inf), torch.full_like(high, torch.inf)
    return low, high, w, c


def by_scipy(low, high, w, c):
    """Return the solution of one sample, by sequential quadratic programming."""
    rules = {"type": "ineq", "fun": lambda q: w @ q - c, "jac": lambda q: w}
    found = minimize(
        lambda q: q @ q / 2,
        0 * low,
        jac=lambda q: q,
        bounds=list(zip(low, high, strict=True)),
        constraints=[rules],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert found.success
    return torch.from_numpy(found.x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "cuts", "alike"), [*itertools.product((4, 50), (1, 2, 3), (0.0, 0.9, 0.99))]
)
def test_against_quadratic_programming(size, cuts, alike, dtype):
    given = problem(size, cuts, alike)
    low, high, w, c = given
    r = shortest(low.to(dtype), high.to(dtype), w.to(dtype), c)
    assert r.dtype == dtype
    want = torch.stack([by_scipy(*(t[i].numpy() for t in given)) for i in range(len(c))])
    torch.testing.assert_close(r.double(), want, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(r.double().norm(dim=1), want.norm(dim=1), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_box_and_cuts_hold(dtype):
    low, high, w, c = problem(300, 3, 0.95, samples=40)
    r = shortest(low.to(dtype), high.to(dtype), w.to(dtype), c)
    assert bool(((r >= low.to(dtype)) & (r <= high.to(dtype))).all())
    assert float((c - (w @ r.double()[..., None])[..., 0]).max()) < 2e-6 * float(c.max())


def test_without_bounds_it_is_the_foot_of_the_plane():
    low, high, w, c = problem(20, 1, 0.0, inf=True)
    torch.testing.assert_close(shortest(low, high, w, c), w[:, 0] * c.clamp(min=0))


def test_cuts_that_are_not_there():
    low, high, w, c = problem(20, 2, 0.5)
    none = torch.full_like(c[:, :1], -torch.inf)
    more = torch.cat([torch.zeros_like(w[:, :1]), w], 1)
    want = shortest(low, high, w, c)
    torch.testing.assert_close(shortest(low, high, more, torch.cat([none, c], 1)), want)
    assert not bool(shortest(low, high, w[:, :1], none).any())


def test_samples_apart():
    low, high, w, c = problem(30, 3, 0.9)
    alone = [shortest(*(t[i : i + 1] for t in (low, high, w, c))) for i in range(len(c))]
    torch.testing.assert_close(shortest(low, high, w, c), torch.cat(alone), rtol=0, atol=1e-9)


def test_equal_cuts_and_none_that_fits():
    low, high, w, c = problem(30, 1, 0.0)
    twice = shortest(low, high, w.expand(-1, 2, -1), c.expand(-1, 2))
    torch.testing.assert_close(twice, shortest(low, high, w, c), rtol=1e-6, atol=1e-8)
    far = shortest(low, high, w, c + 100)
    assert bool(((far >= low) & (far <= high)).all())


def by_linear_program(low, high, w, c):
    """Return the least length of one sample: min t over (r, t) with |r| <= t."""
    size = len(low)
    eye, ones = np.eye(size), np.ones((size, 1))
    rules = np.block([[-w, np.zeros((len(w), 1))], [eye, -ones], [-eye, -ones]])
    bounds = [*zip(low, high, strict=True), (0, None)]
    most = np.concatenate([-c, np.zeros(2 * size)])
    found = linprog(np.r_[np.zeros(size), 1.0], A_ub=rules, b_ub=most, bounds=bounds)
    assert found.success
    return found.fun


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "cuts", "alike"),
    [*itertools.product((4, 50), (1, 2), (0.0, 0.9)), (50, 3, 0.0), (50, 3, 0.9)],
)
def test_the_maximum_norm_against_linear_programming(size, cuts, alike, dtype):
    given = problem(size, cuts, alike)
    low, high, w, c = given
    r = shortest_max(low.to(dtype), high.to(dtype), w.to(dtype), c)
    assert bool(((r >= low.to(dtype)) & (r <= high.to(dtype))).all())
    missed = (c - (w @ r.double()[..., None])[..., 0]).amax(dim=1)
    assert bool((missed <= 1e-5 * c.abs().amax(dim=1)).all())
    want = torch.tensor([by_linear_program(*(t[i].numpy() for t in given)) for i in range(len(c))])
    got = r.double().abs().amax(dim=1)
    assert bool((got >= want * (1 - 1e-4)).all())
    assert float((got / want).nan_to_num(1, 1).max()) < 1.02
    assert float((got / want).nan_to_num(1, 1).median()) < 1.002


def test_the_maximum_norm_without_bounds_is_the_dual_norm():
    low, high, w, c = problem(20, 1, 0.0, inf=True)
    r = shortest_max(low, high, w, c.abs())
    want = c.abs()[:, 0] / w[:, 0].abs().sum(dim=1)
    torch.testing.assert_close(r.abs().amax(dim=1), want, rtol=6e-4, atol=0)
