"""The sums of attention_second keep the digits that its results show, whatever is summed up."""

import pytest
import torch
from torch import Tensor

from tests.ops.test_attention_second import oracle, run

EPS = torch.finfo(torch.float32).eps
LEAST = 2.0**-148  # two units of the smallest numbers of float32


def error(got: Tensor, want: Tensor) -> float:
    """Return the largest error, relative to the largest entry of a plane."""
    return float((got.double().cpu() - want).abs().max() / (want.abs().max() + LEAST / EPS))


def check(tile: Tensor, at_most: float = 1e-6) -> None:
    for got, want in zip(run(tile), oracle(tile), strict=True):
        assert error(got, want) < at_most


def in_float32(tile: Tensor) -> Tensor:
    """Return G by sums in float32, of products that are rounded to it."""
    scores, dp, e, f = tile.cpu()
    p = scores.softmax(-1)
    mean_dp, mean_e, mean_f = ((p * each).sum(-1, keepdim=True) for each in (dp, e, f))
    mean = (p * e * dp).sum(-1, keepdim=True) - mean_dp * mean_e + mean_f
    return p * ((e - mean_e) * (dp - mean_dp) + f - mean)


@pytest.mark.parametrize("size", [5, 40, 64, 1000, 4097])
def test_what_cotangents_have_in_common_drops_out(life, size):
    """Their products are nearly 2^26: the digits of G are beyond those of float32."""
    common = 2.0**13
    tile = life.randn(4, 3, size, seed=size)
    tile[1:3] += common
    check(tile, common * EPS)
    assert error(in_float32(tile), oracle(tile)[3]) > 100 * common * EPS


def test_what_each_addition_drops_adds_up(life):
    """Beside a score of 0 each other one adds less than half of float32's last digit."""
    tile = life.randn(4, 2, 2**15)
    tile[0] = -17.35
    tile[0, :, 0] = 0
    assert error(run(tile)[0], oracle(tile)[0]) < 4 * EPS


@pytest.mark.parametrize("size", [5, 40, 2000])
@pytest.mark.parametrize("f", [0.0, 1e-38, 1.0, 1e36])
@pytest.mark.parametrize(
    ("dp", "e"),
    [
        (0.0, 1e36),
        (1e-38, 1e-38),
        (1e-38, 1e37),
        (1e37, 1e-38),
        (1e-30, 1.0),
        (1e-16, 1e-16),
        (1e-18, 1e-18),
        (1e-20, 1e-18),
        (1.0, 1e-25),
        (1e17, 1e18),
        (1e36, 1e-10),
        (1e36, 0.0),
    ],
)
def test_cotangents_of_any_size(life, dp, e, f, size):
    scale = life.tensor([1.0, dp, e, f])[:, None, None]
    tile = life.randn(4, 2, size, seed=size) * scale
    tile[0, 1, 1:] -= 10  # nearly all is in one entry
    check(tile)


@pytest.mark.parametrize("size", [40, 2000])
@pytest.mark.parametrize("plane", [1, 2, 3])
def test_sums_beyond_the_largest_number(life, plane, size):
    """Of float32: the means are numbers."""
    tile = life.randn(4, 2, size)
    tile[plane] = 1e38 * (1 + 0.1 * tile[plane])
    tile[1:3] *= 1e-3 if plane == 3 else 1
    tile[3 - plane] = 0
    got, want = run(tile), oracle(tile)
    for k in (0, plane, 3):
        assert error(got[k], want[k]) < 1e-5


@pytest.mark.parametrize("value", [2.0**-60, 1.1 * 2.0**-59, 2.0**-50, 1.1 * 2.0**-49])
def test_small_products_with_small_probabilities_add_up(life, value):
    """Most of a row's mean is of entries whose products are near the end of float32's range."""
    tile = torch.zeros(4, 1, 2**15, device=life.device)
    tile[0, :, 1:] = -9.4
    tile[1:3, :, 1:] = value
    check(tile)
