"""The norms that deepfool_step divides by are those of exact sums, whatever has to be summed up."""

import math

import pytest
import torch
from torch import Tensor

from jacfast.ops import deepfool_step
from tests.testing import Life

SHORT = [torch.float32, torch.float16, torch.bfloat16]
# Around what one sweep measures: ten classes, or three where no more are left.
CLASSES = [2, 3, 4, 10, 11, 13, 14, 23]
NEAR = 2.0**-10


def distances(life: Life, rows: Tensor) -> list[float]:
    """Return the distance of class i + 1 of each sample i, which logits make the nearest.

    rows [C - 1, C, D]; the origin is class 0.
    """
    samples, classes, _ = rows.shape
    logits = torch.full((samples, classes), torch.finfo(rows.dtype).max / 2, dtype=rows.dtype)
    logits[:, 0] = 0
    logits[range(samples), range(1, classes)] = NEAR
    origin = torch.zeros(samples, dtype=torch.int64)
    _, winner, distance = deepfool_step(*(t.to(life.device) for t in (logits, rows, origin)))
    assert winner.tolist() == list(range(1, classes))
    return distance.tolist()


def exact(rows: Tensor) -> list[float]:
    """Return the same from exact sums of the squares, which are numbers of float64."""
    found = []
    for k, of_sample in enumerate(rows.float().cpu(), start=1):
        w = (of_sample[k] - of_sample[0]).double()
        found.append(NEAR / math.sqrt(math.fsum((w * w).tolist())))
    return torch.tensor(found, dtype=torch.float64).float().tolist()


def check(life: Life, rows: Tensor) -> None:
    assert distances(life, rows) == exact(rows)


def every(rows: Tensor) -> Tensor:
    """Return rows [C, D] once for each class but the origin."""
    return rows.expand(len(rows) - 1, -1, -1)


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_each_class_is_measured(life, classes, dtype):
    for size in (9, 88):
        check(life, every(life.randn(classes, size, seed=size, dtype=dtype)))


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-20, 1e-14, 1e-11, 1e15, 1e18, 5e18, 1e19, 1e35])
@pytest.mark.parametrize("classes", CLASSES)
def test_each_class_may_be_the_one_that_float32_does_not_hold(life, classes, scale):
    rows = life.randn(classes, 40, seed=classes)
    rows[0] = 0
    rows = every(rows).clone()
    rows[range(classes - 1), range(1, classes)] *= scale
    check(life, rows)


@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_long_rows(life, dtype):
    check(life, every(life.randn(3, 9000, dtype=dtype)))
    check(life, every(life.randn(2, 150_528, dtype=dtype)))


@pytest.mark.parametrize("classes", [3, 5])
def test_rows_that_are_nearly_equal(life, classes):
    """Their differences are exact; one class is the origin's equal."""
    rows = life.randn(1, 2000) * (1 + 1e-6 * life.randn(classes, 2000, seed=1))
    check(life, every(rows))
    same = torch.cat([rows, rows[:1]])
    logits = torch.full((1, classes + 1), NEAR, device=life.device)
    logits[0, 0] = 0
    origin = torch.zeros(1, dtype=torch.int64, device=life.device)
    _, _, distance = deepfool_step(logits, same[None], origin)
    assert distance.item() == min(exact(every(rows)))


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("classes", [2, 5])
def test_what_each_addition_drops_adds_up(life, classes, dtype):
    """Small squares beside a large one: in the pack, or in packs of the same thread before."""
    pack = life.tensor([[1, *[2.0**-11] * 3]], dtype=dtype).repeat(classes, 512)
    row = torch.full((classes, 2048), 2.0**-12 if dtype == torch.float32 else 2.0**-9, dtype=dtype)
    row[:, :128] = 1 if dtype == torch.float32 else 8
    for rows in (pack, row.to(life.device)):
        rows[0] = 0
        check(life, every(rows))


def test_what_each_square_drops_adds_up(life):
    """The square of 1 + 2^-12 has 2^-24 more than float32 holds."""
    rows = torch.full((4, 2044), 1 + 2.0**-12, device=life.device)
    rows[0] = 0
    check(life, every(rows))
