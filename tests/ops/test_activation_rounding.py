"""How near the activations' derivatives are to the exact ones, in units in the last place."""

import functools

import mpmath
import pytest
import torch

from jacfast.ops import activation_first, activation_second
from tests.ops.activations import CASES, oracle

# Of float64: by numerical differentiation with 40 digits.
mpmath.mp.dps = 40
EXACT = {
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu_tanh": lambda x: x / (1 + mpmath.exp(-_inner(x))),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "logsigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
}


def _inner(x):
    return 2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(0.044715) * x**3)


def derivatives(name, x):
    """Return f' and f'' of the op at x.

    On a GPU f' is computed by two kernels, in each of which nvcc may multiply and add in one
    rounding where it does not in the other. By g++, all such pairs in one or none, that makes a
    difference of 1.8 units at most.
    """
    kind, parameters, _ = CASES[name]
    one = torch.ones_like(x)
    of_x, of_g = activation_second(x, one, one, kind, parameters)
    first = activation_first(x, one, kind, parameters)
    assert ulps(first, of_g.double().cpu(), x.dtype) <= (4 if x.is_cuda else 0)
    return of_g, of_x


def ulps(got, want, dtype):
    """Return the largest error, in units in the last place of numbers from 1/2 to 1."""
    size = want.abs().clamp_min(0.5)
    return float(((got.double().cpu() - want).abs() / size).max()) / torch.finfo(dtype).eps


FAR, NEAR = torch.linspace(-41, 41, 83).double(), torch.linspace(-3, 3, 101).double()
POINTS = torch.cat([FAR + 0.37, NEAR + 1e-3])


@functools.cache  # for all lives
def exact(name):
    """Return f' and f'' at POINTS."""
    points = [mpmath.mpf(x) for x in POINTS.tolist()]
    found = [[float(mpmath.diff(EXACT[name], x, order)) for x in points] for order in (1, 2)]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("name", EXACT)
def test_float64(life, name):
    for got, want in zip(derivatives(name, POINTS.to(life.device)), exact(name), strict=True):
        assert ulps(got, want, torch.float64) <= 8


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"sigmoid", "tanh"}))
def test_float32(life, name):
    points = torch.linspace(-12, 12, 5001)
    one = torch.ones_like(points)
    first, second, _ = oracle(name, points, one, one)
    for got, want in zip(derivatives(name, points.to(life.device)), (first, second), strict=True):
        assert ulps(got, want, torch.float32) <= 8


@pytest.mark.parametrize(("dtype", "low"), [(torch.float32, -87.0), (torch.float64, -708.0)])
def test_the_exponential_of_every_power(life, dtype, low):
    """Relative: e^x is f' of ELU, down to the smallest normal numbers."""
    points = torch.linspace(low, 0, 3001, dtype=dtype)
    exact = [mpmath.exp(mpmath.mpf(float(x))) for x in points]
    got, _ = derivatives("elu", points.to(life.device))
    error = [abs(float(y) / e - 1) for y, e in zip(got.cpu(), exact, strict=True)]
    assert float(max(error)) <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_tail_of_the_normal_distribution(life, dtype):
    """Of GELU f' - x f'' / (2 - x^2), down to where what is taken away is as large."""
    points = torch.linspace(-4, 0, 401, dtype=dtype)
    slope, bend = (t.double().cpu() for t in derivatives("gelu", points.to(life.device)))
    wide = points.double()
    keep = (2 - wide**2).abs() > 0.1
    tail = (slope - wide * bend / (2 - wide**2))[keep]
    exact = [float(mpmath.ncdf(mpmath.mpf(float(x)))) for x in wide[keep]]
    assert ulps(tail, torch.tensor(exact, dtype=torch.float64), dtype) <= 8
