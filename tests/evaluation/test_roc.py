"""ROC curves: by hand, and the area as the chance that a positive outranks a negative."""

import sys

import pytest
import torch

from jacfast.evaluation import roc_curves
from tests.nets import build


def identity(x):
    return 1.0 * x


def test_by_hand():
    """Two classes: p_1 rises with x_1. Scores of class 1: 3 > 2 > 1 > 0, labels 1, 0, 1, 0."""
    x = torch.tensor([[0.0, 3.0], [0.0, 2.0], [0.0, 1.0], [0.0, 0.0]])
    curve = roc_curves(identity, x, torch.tensor([1, 0, 1, 0]))[1]
    assert curve.false_positive.tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]
    assert curve.true_positive.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]
    assert curve.auc == 0.75


@pytest.mark.parametrize("batch_size", [7, 250])
def test_the_area_is_a_share_of_pairs(batch_size):
    model, x = build("mlp", 60)
    y, seen = torch.arange(60) % 4, []  # class 4 has no sample

    def counted(x):
        seen.append(len(x))
        return model(x)

    curves = roc_curves(counted, x, y, batch_size=batch_size)
    assert max(seen) == min(batch_size, 60)
    assert list(curves) == [0, 1, 2, 3]
    p = model(x).softmax(dim=1).detach()
    for k, curve in curves.items():
        own, others = p[y == k, k][:, None], p[y != k, k][None]
        above = (own > others).double() + (own == others).double() / 2  # samples with dead ReLUs
        assert curve.auc == pytest.approx(float(above.mean()), abs=1e-12)
        assert curve.false_positive[0] == curve.true_positive[0] == 0
        assert curve.false_positive[-1] == curve.true_positive[-1] == 1


def test_scores_are_softmax_not_logits():
    """The larger logit of class 0 has the smaller probability."""
    x = torch.tensor([[2.0, 0.0], [3.0, 9.0]])
    assert roc_curves(identity, x, torch.tensor([0, 1]))[0].auc == 1.0


def test_float32_logits_are_told_apart_where_their_probabilities_round_to_one():
    x = torch.tensor([[20.0, 0.0], [19.0, 0.0]])
    assert roc_curves(identity, x, torch.tensor([0, 1]))[0].auc == 1.0


def test_scores_beyond_the_resolution_of_probabilities():
    """exp(-40) is lost in 1 - exp(-40); and of two classes both curves have one area."""
    x = torch.tensor([[50.0, 0.0], [45.0, 0.0], [60.0, 0.0], [40.0, 0.0]])
    curves = roc_curves(identity, x, torch.tensor([0, 1, 0, 1]))
    assert [curve.auc for curve in curves.values()] == [1.0, 1.0]


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_no_scores_tie_however_large_the_logits(scale):
    x = scale * torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    assert roc_curves(identity, x, torch.tensor([0, 1, 0, 1]))[0].auc == 0.75


def test_an_impossible_class_has_the_lowest_score():
    x = torch.tensor([[0.0, -float("inf")], [0.0, 1.0], [0.0, 0.5], [0.0, 2.0]])
    assert roc_curves(identity, x, torch.tensor([0, 1, 0, 1]))[1].auc == 1.0
    assert roc_curves(identity, x, torch.tensor([1, 0, 0, 0]))[1].auc == 0.0


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (torch.ones(2, 3), torch.tensor([1, 1]), ValueError, "two classes at least; got only 1"),
        (torch.ones(2, 3), torch.tensor([1, 3]), ValueError, "y must lie in 0"),
        (torch.full((2, 3), float("nan")), torch.tensor([0, 1]), ValueError, "must be finite"),
        (torch.ones(2, 3).long(), torch.tensor([0, 1]), TypeError, "x must be floating"),
    ],
)
def test_errors(x, y, error, message):
    with pytest.raises(error, match=message):
        roc_curves(identity, x, y)


def test_without_scikit_learn_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ImportError, match=r"run pip install 'jacfast\[evaluation\]'$"):
        roc_curves(identity, torch.rand(2, 2), torch.tensor([0, 1]))
