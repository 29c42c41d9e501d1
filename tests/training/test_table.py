"""The table before and after hardening: each figure in its row and column."""

import pytest

from jacfast.training.table import cells, table


def measured(at: float, distance: float | None, findings: list[str]) -> dict:
    """Return figures that tell before (`at` 0) from after, and from each other."""
    worst = {"accuracy": {"0.5": 0.05 + at}, "median_distance": distance}
    return {
        "accuracy": 0.91 + at,
        "rho_adv": 0.02 + at,
        "norm_clean": 3 + at,
        "norm_perturbed": 4 + at,
        "fgsm": {"0.1": 0.3 + at, "0.2": 0.2 + at},
        "worst": worst | {"findings": findings, "images": 200},
    }


STEP = {"images": 100, "plain": 0.01, "jacfast": 0.025, "loop": 0.1, "speedup": 4.0}
FIGURES = {
    "before": measured(0.0, None, ["flat"]),
    "after": measured(0.04, 1.5, []),
    "seconds": {"train": 7.0, "harden": 9.0},
    "step": STEP,
    "options": {"n": 1},
}


def test_figures_are_in_their_place():
    assert cells(FIGURES) == [
        ("", "before", "after"),
        ("test accuracy, %", "91.00", "95.00"),
        ("rho_adv (DeepFool), x 100", "2.00", "6.00"),
        ("mean ||J||_F at images", "3.000", "3.040"),
        ("mean ||J||_F at DeepFool images", "4.000", "4.040"),
        ("accuracy under FGSM, eps 0.1, %", "30.00", "34.00"),
        ("accuracy under FGSM, eps 0.2, %", "20.00", "24.00"),
        ("worst case: distance, median", "unknown", "1.500"),
        ("worst case: accuracy, eps 0.5, %", "5.00", "9.00"),
        ("seconds of training, this call", "7.0", "9.0"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (["flat"], [], "before: flat"),
        (["flat", "drawn"], ["flat"], "before: flat, drawn; after: flat"),
        ([], [], "none"),
    ],
)
def test_signs_are_said_of_the_model_that_has_them(before, after, said):
    found = {"before": measured(0.0, 1.0, before), "after": measured(0.1, 2.0, after)}
    assert f"signs of masked gradients: {said}\n" in table(FIGURES | found)


def test_the_price_of_a_step():
    words = table(FIGURES)
    assert "cross-entropy alone 10 ms; with the penalty (unbiased, n = 1) 25 ms" in words
    assert "loop over the classes (exact) 100 ms" in words
    assert "4.0 times as fast as that loop, and costs 2.50 plain steps" in words
    assert "(exact) 25 ms" in table(FIGURES | {"options": {"n": "exact"}})
    untimed = table(FIGURES | {"step": {"images": 50, "why": "memory lacks"}})
    assert "one training step of 50 images is not timed; memory lacks" in untimed
