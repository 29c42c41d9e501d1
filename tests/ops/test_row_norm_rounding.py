"""Sums of a row are those of exact arithmetic, rounded once, at whatever size of its entries."""

import math

import pytest
import torch
from torch import Tensor

from jacfast.ops import row_norm

SHORT = [torch.float32, torch.float16, torch.bfloat16]


def rounded(g: Tensor, kind: str) -> Tensor:
    """Return the exact sums of the rows, rounded to float32: squares are exact in float64."""
    power = 2 if kind == "sumsq" else 1
    sums = [math.fsum(abs(v) ** power for v in row) for row in g.double().tolist()]
    return torch.tensor(sums, dtype=torch.float64).float()


def equal(got: Tensor, want: Tensor) -> bool:
    return got.cpu().tolist() == want.tolist()


@pytest.mark.parametrize("kind", ["sumsq", "sumabs"])
@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_sums_are_rounded_once(life, kind, dtype):
    for size in (9, 64, 3000, 9000):
        g = life.randn(4, size, seed=size, dtype=dtype)
        g *= (6 * life.randn(4, size, seed=1)).exp2().to(dtype)
        assert equal(row_norm(g, kind), rounded(g, kind))


@pytest.mark.parametrize(
    ("kind", "large", "small"), [("sumsq", 1.0, 2.0**-12), ("sumabs", 64.0, 2.0**-18)]
)
@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_what_each_addition_drops_adds_up(life, kind, large, small, dtype):
    """Beside the large terms each small one is just less than half of float32's last digit."""
    g = life.tensor([[large, *[small * 63 / 64] * 3]] * 2, dtype=dtype).repeat(1, 512)
    assert equal(row_norm(g, kind), rounded(g, kind))
    assert not equal(torch.full((2,), 512 * large), rounded(g, kind))


def test_what_each_square_drops_adds_up(life):
    """The square of 1 + 2^-12 has 2^-24 more than float32 holds."""
    g = life.tensor([[1 + 2.0**-12] * 2044])
    assert equal(row_norm(g, "sumsq"), rounded(g, "sumsq"))
    assert not equal(torch.tensor([2044 * (1 + 2.0**-11)]), rounded(g, "sumsq"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "scale", [1e-36, 1e-30, 1e-20, 3e-18, 1e-14, 1e-12, 1e-11, 1e-10, 1e-8, 1e8, 1e15, 3e17]
)
def test_squares_of_any_size(life, scale, dtype):
    for size in (5, 40, 9000):
        g = life.randn(3, size, seed=size).mul(scale).to(dtype)
        g[1, ::2] *= 1e-3
        assert equal(row_norm(g, "sumsq"), rounded(g, "sumsq"))


@pytest.mark.parametrize("size", [40, 9000])
def test_sums_up_to_the_largest_number(life, size):
    """Of float32: the sum is, what is beyond is infinite, and a row beside it is as it was."""
    largest = torch.finfo(torch.float32).max
    g = life.tensor([[0.5, 1.0, 2.0]]).T.repeat(1, size) * (largest / size)
    assert row_norm(g, "sumabs").isinf().tolist() == [False, False, True]
    assert equal(row_norm(g[:2], "sumabs"), rounded(g[:2], "sumabs"))
    g = g.sqrt() * (1 - 1e-6)
    assert row_norm(g, "sumsq").isinf().tolist() == [False, False, True]
    assert equal(row_norm(g[:2], "sumsq"), rounded(g[:2], "sumsq"))
