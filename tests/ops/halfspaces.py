"""Problems for halfspace_projection, and other people's solvers of them."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linprog, lsq_linear, minimize, nnls
from torch import Tensor

Problem = tuple[Tensor, Tensor, Tensor, Tensor]  # low, high, w, c in float64


def problem(
    size: int, cuts: int, alike: float = 0.0, samples: int = 4, box: str = "inside", seed: int = 0
) -> Problem:
    """Return problems that have a solution.

    Args:
        alike: how near half-spaces are to one another, up to 1.
        box: of images in [0, 1] that lie "inside", in a "corner", or "none".
    """
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=g)

    x = draw(samples, size)
    x = x.round() if box == "corner" else x
    w = torch.randn(samples, cuts + 1, size, dtype=torch.float64, generator=g)
    w = alike * w[:, :1] + (1 - alike) * w[:, 1:]
    w = w / w.norm(dim=2, keepdim=True)
    inner = draw(samples, size) - x
    c = (w @ inner[..., None])[..., 0]
    far = torch.full_like(x, torch.inf)
    low, high = (-far, far) if box == "none" else (-x, 1 - x)
    return low, high, w, c


def each(given: Problem) -> list[tuple[np.ndarray, ...]]:
    """Return the samples by themselves, for solvers of NumPy's arrays."""
    samples = zip(*(t.double().cpu().numpy() for t in given), strict=True)
    return [tuple(sample) for sample in samples]


def once(solve: Callable) -> Callable:
    """Solve each sample once: the lives of an op are all given the same ones."""
    known: dict[tuple[bytes, ...], np.ndarray | float] = {}

    @functools.wraps(solve)
    def solved(*sample: np.ndarray) -> np.ndarray | float:
        key = tuple(part.tobytes() for part in sample)
        if key not in known:
            known[key] = solve(*sample)
        return known[key]

    return solved


@once
def quadratic(low: np.ndarray, high: np.ndarray, w: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the r of least 2-norm of one sample, by sequential quadratic programming."""
    found = minimize(
        lambda q: q @ q / 2,
        np.zeros_like(low),
        jac=lambda q: q,
        bounds=list(zip(low, high, strict=True)),
        constraints=[{"type": "ineq", "fun": lambda q: w @ q - c, "jac": lambda q: w}],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-15},
    )
    assert found.success
    return found.x


@once
def linear(low: np.ndarray, high: np.ndarray, w: np.ndarray, c: np.ndarray) -> float:
    """Return the least maximum norm of one sample: min t over (r, t) with |r| <= t."""
    size = len(low)
    eye, ones = np.eye(size), np.ones((size, 1))
    rules = np.block([[-w, np.zeros((len(w), 1))], [eye, -ones], [-eye, -ones]])
    bounds = [*zip(low, high, strict=True), (0, None)]
    most = np.concatenate([-c, np.zeros(2 * size)])
    found = linprog(np.r_[np.zeros(size), 1.0], A_ub=rules, b_ub=most, bounds=bounds)
    assert found.success
    return found.fun


@once
def sparse(low: np.ndarray, high: np.ndarray, w: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return an r of least 1-norm of one sample, the difference of two that are not negative."""
    bounds = [(0, most) for most in (*high, *-low)]
    found = linprog(np.ones(2 * len(low)), A_ub=np.hstack([-w, w]), b_ub=-c, bounds=bounds)
    assert found.success
    return found.x[: len(low)] - found.x[len(low) :]


@once
def least_squares(low: np.ndarray, high: np.ndarray, w: np.ndarray, c: np.ndarray) -> float:
    """Return the least ``sum_i (c_i - w_i . r)^2`` in the box, where all must be missed."""
    found = lsq_linear(w, c, (low, high), tol=1e-14)
    assert found.success
    return float(np.square(c - w @ found.x).sum())


def is_optimal(r: np.ndarray, sample: tuple[np.ndarray, ...], tolerance: float) -> bool:
    """Say whether r fulfils the conditions of Karush, Kuhn and Tucker of the least 2-norm.

    That is r = clamp(v) with v = sum_i a_i w_i, a >= 0, of the half-spaces on whose boundary r is.
    """
    low, high, w, c = sample
    scale = max(1e-12, float(np.abs(r).max()))
    missed = c - w @ r
    near = tolerance * max(1e-12, float(np.linalg.norm(r)))
    inside = bool((r >= low).all() and (r <= high).all() and missed.max() <= near)
    on = missed > -near
    free = (r > low) & (r < high)
    a = nnls(w[on][:, free].T, r[free])[0] if on.any() and free.any() else np.zeros(on.sum())
    v = a @ w[on]
    return inside and bool(np.abs(np.clip(v, low, high) - r).max() <= 10 * tolerance * scale)
