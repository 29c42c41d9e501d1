"""Accuracy, its curve and the reference epsilon, on models that can be worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from jacfast import fgsm
from jacfast.evaluation import accuracy, accuracy_curve, reference_epsilon
from tests.nets import build

# Of z = (x, -x), sample x > 0 is of class 0 and lost to FGSM from eps = x on (x ends at x - eps).
X = torch.tensor([[0.1], [0.2], [0.3], [0.4]], dtype=torch.float64)
Y = torch.zeros(4, dtype=torch.int64)


def signs(x):
    return torch.cat([x, -x], dim=1)


def free(model, x, y, *, eps):
    return fgsm(model, x, y, eps=eps, clip=None)


@pytest.mark.parametrize("batch_size", [1, 3, 250])
def test_accuracy(batch_size):
    y = torch.tensor([0, 1, 0, 0])
    assert accuracy(signs, X, y, batch_size=batch_size) == 0.75
    assert accuracy(signs, X[:3], y[:3], batch_size=batch_size) == 2 / 3


def test_nan_is_wrong():
    x = X.clone()
    x[0] = math.nan
    assert accuracy(signs, x, Y) == 0.75


@pytest.mark.parametrize(("at", "number", "share"), [(0, math.inf, 0.75), (1, -math.inf, 1.0)])
def test_plus_infinity_says_no_class_and_minus_does(at, number, share):
    """As in what attacks say of a sample."""

    def model(x):
        logits = signs(x).clone()
        logits[0, at] = number
        return logits

    assert accuracy(model, X, Y) == share


@pytest.mark.parametrize("batch_size", [1, np.int64(3), 250])
def test_curve(batch_size):
    got = accuracy_curve(signs, X, Y, free, [0.35, 0, 0.15, 0.25, 1], batch_size=batch_size)
    assert got == [0.25, 1.0, 0.75, 0.5, 0.0]
    assert accuracy_curve(signs, X[:3], Y[:3], free, [0.15], batch_size=batch_size) == [2 / 3]


def test_curve_of_an_attack_that_says_what_it_found():
    def found(model, x, y, *, eps):
        return fgsm.result(model, x, y, eps=eps, clip=None)

    assert accuracy_curve(signs, X, Y, found, [0.35, 0, 0.15]) == [0.25, 1.0, 0.75]
    assert reference_epsilon(signs, X, Y, found) == reference_epsilon(signs, X, Y, free)


def test_at_zero_the_attack_is_not_called():
    def never(model, x, y, *, eps):
        raise AssertionError

    assert accuracy_curve(signs, X, Y, never, [0.0]) == [1.0]


def test_the_attack_gets_each_batch_with_its_labels():
    seen = []

    def attack(model, x, y, *, eps):
        seen.append((x.flatten().tolist(), y.tolist(), eps))
        return x

    labels = torch.tensor([0, 1, 2, 3])
    accuracy_curve(lambda x: x.expand(-1, 4), X, labels, attack, [0.5], batch_size=3)
    assert seen == [([0.1, 0.2, 0.3], [0, 1, 2], 0.5), ([0.4], [3], 0.5)]


@pytest.mark.parametrize(("share", "want"), [(0.25, 0.1), (0.5, 0.2), (0.6, 0.3), (1.0, 0.4)])
def test_reference_epsilon(share, want):
    tolerance = 1e-6
    got = reference_epsilon(signs, X, Y, free, share=share, tolerance=tolerance)
    assert want <= got <= want + tolerance
    assert 1 - accuracy_curve(signs, X, Y, free, [got])[0] >= share


@pytest.mark.parametrize("lost", range(1, 10))
def test_a_share_that_is_reached_exactly(lost):
    """1 - 0.9 is less than 0.1 in floating point; so are other shares of ten images."""
    x = torch.tensor([[0.1]] * lost + [[0.6]] * (10 - lost), dtype=torch.float64)
    y = torch.zeros(10, dtype=torch.int64)
    got = reference_epsilon(signs, x, y, free, share=lost / 10, tolerance=1e-6)
    assert 0.1 <= got <= 0.1 + 1e-6


@pytest.mark.parametrize(("share", "want"), [(0.25, 0.1), (0.5, 0.2), (0.6, 0.3), (1.0, 0.4)])
def test_a_tolerance_below_the_spacing_of_numbers(share, want):
    """The middle of two neighbours rounds to the lower one or to the upper one."""
    got = reference_epsilon(signs, X, Y, free, share=share, tolerance=1e-30)
    assert want <= got <= math.nextafter(want, 1)


def test_no_more_samples_at_a_time_than_asked_for():
    seen = []

    def model(x):
        seen.append(len(x))
        return signs(x)

    reference_epsilon(model, X, Y, free, tolerance=0.5, batch_size=3)
    assert set(seen) == {3, 1}


@pytest.mark.parametrize(
    ("y", "share"), [([1, 1, 1, 1], 1), ([1, 1, 1, 0], 0.75), ([1, 1, 0, 0], 0.5)]
)
def test_there_is_no_reference_epsilon_where_the_share_is_lost_already(y, share):
    message = f"model must misclassify less than 0.5 of the images .*; it misclassifies {share:g}$"
    with pytest.raises(ValueError, match=message):
        reference_epsilon(signs, X, torch.tensor(y), free)
    with pytest.raises(ValueError, match="misclassify less than"):
        reference_epsilon(signs, X, torch.tensor(y), free, share=share)


def test_reference_epsilon_of_a_model_that_knows_just_more():
    got = reference_epsilon(signs, X, torch.tensor([1, 0, 0, 0]), free, tolerance=1e-6)
    assert 0.2 <= got <= 0.2 + 1e-6  # the first is wrong at any eps, the second from here on


def test_where_the_curve_is_not_monotone_a_crossing_is_found():
    """Wrong for eps in [0.1, 0.3) and from 0.45 on: both 0.1 and 0.45 are crossings."""

    def attack(model, x, y, *, eps):
        return -x if 0.1 <= eps < 0.3 or eps >= 0.45 else x

    got = reference_epsilon(signs, X, Y, attack, tolerance=1e-6)
    assert min(abs(got - 0.1), abs(got - 0.45)) <= 1e-6


def test_reference_epsilon_beyond_high():
    with pytest.raises(ValueError, match=r"high must be an eps .* at 0.15 only 0.25 are"):
        reference_epsilon(signs, X, Y, free, high=0.15)


def test_the_model_is_left_as_it_was():
    model, x = build("cnn", 5)
    model.train()
    state = torch.get_rng_state()
    accuracy_curve(model, x, torch.zeros(5, dtype=torch.int64), free, [0.0, 0.1])
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: accuracy(m, torch.ones(2, 6).long(), Y[:2]), TypeError, "x must be floating"),
        (lambda m: accuracy(m, torch.ones(2, 6), Y), ValueError, r"y must have shape \[N\]"),
        (lambda m: accuracy(m, torch.ones(2, 6), Y[:2] + 3), ValueError, "y must lie in 0"),
        (lambda m: accuracy(m, torch.ones(2, 6), Y[:2], batch_size=0), ValueError, "batch_size"),
        (
            lambda m: accuracy_curve(m, torch.ones(2, 6), [0, 1], fgsm, [0.1]),
            TypeError,
            "y must be an int64 tensor of labels; got list",
        ),
        (
            lambda m: accuracy_curve(m, torch.ones(2, 6), Y[:2], fgsm, [-1.0]),
            ValueError,
            "epsilons must be finite and >= 0; got -1",
        ),
        (
            lambda m: accuracy_curve(m, X, Y, fgsm, 0.1),
            TypeError,
            "epsilons must be a list of numbers",
        ),
        (lambda m: accuracy_curve(m, X, Y, fgsm, []), ValueError, "epsilons must hold one size"),
        (
            lambda m: accuracy_curve(m, X, Y, fgsm, "0.1"),
            TypeError,
            "epsilons must be a list of numbers; got str",
        ),
        (
            lambda m: accuracy_curve(m, X, Y, "fgsm", [0.1]),
            TypeError,
            r"attack must be a function of \(model, x, y, eps=eps\), or a result; got str",
        ),
        (  # the images of an attack
            lambda m: reference_epsilon(m, X, Y, X),
            TypeError,
            r"attack must be a function of \(model, x, y, eps=eps\), or a result; got Tensor",
        ),
        (
            lambda m: accuracy_curve(m, torch.ones(2, 6), Y[:2], lambda *_, eps: None, [0.1]),
            TypeError,
            "attack must return perturbed inputs; got NoneType",
        ),
        (lambda m: reference_epsilon(m, X, Y, share=1.5), ValueError, r"share must be in \(0, 1\]"),
        (lambda m: reference_epsilon(m, X, Y, share=0), ValueError, r"share must be in \(0, 1\]"),
        (
            lambda m: reference_epsilon(m, X, Y, high="1"),
            TypeError,
            "high must be a number; got str",
        ),
        (lambda m: reference_epsilon(m, X, Y, high=math.inf), ValueError, "high must be finite"),
        (lambda m: reference_epsilon(m, X, Y, tolerance=0), ValueError, "tolerance must be"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(nn.Linear(6, 3))
