"""The weight of the penalty over the steps, and the arguments that all integrations share."""

import math

import pytest
import torch

import jacfast
from jacfast.integrations import common
from jacfast.training.schedule import Schedule


def weights(schedule, steps=6):
    return [schedule(step) for step in range(steps)]


def test_constant():
    assert weights(Schedule(0.03)) == [0.03] * 6


def test_post_processing_starts_late():
    assert weights(Schedule(0.5, start=2)) == [0, 0, 0.5, 0.5, 0.5, 0.5]


def test_warm_up_is_linear_and_ends_at_lam():
    assert weights(Schedule(1.0, warmup=4)) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert weights(Schedule(2.0, start=3, warmup=2)) == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("lam", [-1, math.inf, math.nan])
def test_lam_is_finite_and_not_negative(lam):
    with pytest.raises(ValueError, match=f"lam must be finite and >= 0; got {lam}"):
        Schedule(lam)


@pytest.mark.parametrize("name", ["start", "warmup"])
def test_steps_are_not_negative(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 0; got -1"):
        Schedule(0.1, **{name: -1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": "a"}, "lam must be a number; got str"),
        ({"lam": 1.0, "start": "a"}, "start must be an integer; got 'a'"),
        ({"lam": 1.0, "warmup": 2.5}, "warmup must be an integer; got 2.5"),
    ],
)
def test_kinds(options, message):
    with pytest.raises(TypeError, match=message):
        Schedule(**options)


def test_a_number_is_a_constant_schedule():
    ramp = Schedule(1, warmup=2)
    assert common.as_schedule(ramp) is ramp
    assert common.as_schedule(0.25) == Schedule(0.25)
    with pytest.raises(TypeError, match="schedule must be a number or a Schedule; got str"):
        common.as_schedule("0.1")
    with pytest.raises(ValueError, match="lam must be finite and >= 0; got -1"):
        common.as_schedule(-1)


def test_penalty_and_options_are_checked():
    common.check(jacfast.Frobenius(), {"batch_norm": "frozen"})
    with pytest.raises(TypeError, match=r"penalty must be a jacfast Penalty, as .*; got float"):
        common.check(0.1, {})
    with pytest.raises(TypeError, match=r"options must be among layer, .*; got at, n$"):
        common.check(jacfast.Frobenius(), {"n": 1, "at": None})


def test_norm_only_where_the_penalty_tells_it():
    value = torch.tensor(8.0)
    assert common.jacobian_norm(jacfast.Frobenius(every=2), value) == 2
    for other in (
        jacfast.Frobenius(root=True),
        jacfast.Frobenius(weights=torch.ones(5)),
        jacfast.CrossLipschitz(),
    ):
        assert common.jacobian_norm(other, value) is None
