"""What benchmarks of robustness make of their runs: seconds to a goal, optimality, by hand."""

import math

import pytest
import torch

from benchmarks import minimal_norm
from benchmarks.robustness import time_to


def looks(*points):
    return [dict(zip(("seconds", "rho", "accuracy"), point, strict=True)) for point in points]


@pytest.mark.parametrize(
    ("points", "want"),
    [
        ([(0, 0.1, 0.99), (10, 0.2, 0.99), (20, 0.3, 0.99)], 15.0),  # a line between two looks
        ([(0, 0.1, 0.99), (10, 0.2, 0.99), (20, 0.3, 0.97)], None),  # for too much accuracy
        ([(0, 0.1, 0.99), (10, 0.2, 0.97), (20, 0.3, 0.99)], 20.0),  # accurate at that look alone
        ([(0, 0.1, 0.99), (10, 0.3, 0.97), (20, 0.4, 0.99)], 20.0),  # far enough before
        ([(0, 0.3, 0.99), (10, 0.4, 0.99)], 0.0),
    ],
)
def test_seconds_until_both_goals_are_reached(points, want):
    found = time_to(looks(*points), rho=0.25, accuracy=0.98)
    assert found == (want if want is None else pytest.approx(want))


def test_optimality_is_of_the_areas_below_the_curves_of_robust_accuracy():
    best = torch.tensor([1.0, 2.0, 4.0]).double()
    size = torch.tensor([1.0, 3.0, math.inf]).double()
    eps = torch.linspace(0, 4, 4001).double()[:, None]  # up to the largest of the best
    least, found = ((far > eps).double().mean(dim=1).mean() * 4 for far in (best, size))
    want = float((4 - found) / (4 - least))
    assert minimal_norm.optimality(size, best) == pytest.approx(want, abs=2e-3)
    assert minimal_norm.optimality(best, best) == 1
    assert minimal_norm.optimality(torch.full_like(best, math.inf), best) == 0


def test_figures_of_an_attack_that_fails_once_in_twenty():
    best = torch.linspace(1, 2, 20).double()
    size = best * torch.linspace(1, 1.19, 20).double()
    size[19] = math.inf
    found = minimal_norm.figures(size, best)
    assert found["failed"] == 1
    assert found["length / best, median"] == pytest.approx(1.09)
    assert found["length / best, 95%"] == math.inf
    assert found["best / length, mean"] == pytest.approx(
        sum(1 / (1 + 0.01 * i) for i in range(19)) / 20
    )
    low, high = found["interval of 95%"]
    assert low < found["optimality"] < high
