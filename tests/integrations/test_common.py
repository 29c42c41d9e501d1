"""What all integrations share: their arguments, and the norm that they show."""

import numpy as np
import pytest
import torch

import jacfast
from jacfast.integrations import common
from jacfast.training.schedule import Schedule


def test_a_number_is_a_constant_schedule():
    ramp = Schedule(1, warmup=2)
    assert common.as_schedule(ramp) is ramp
    for number in (0.25, np.float32(0.25)):
        assert common.as_schedule(number) == Schedule(0.25)
    for other in ("0.1", True):
        kind = type(other).__name__
        with pytest.raises(TypeError, match=f"schedule must be a number or a Schedule; got {kind}"):
            common.as_schedule(other)
    with pytest.raises(ValueError, match="lam must be finite and >= 0; got -1"):
        common.as_schedule(-1)


def test_penalty_and_options_are_checked():
    common.check(jacfast.Frobenius(), {"batch_norm": "frozen"})
    with pytest.raises(TypeError, match=r"penalty must be a jacfast Penalty, as .*; got float"):
        common.check(0.1, {})
    with pytest.raises(ValueError, match=r"reduction='mean' to be added .*; got 'none'"):
        common.check(jacfast.Frobenius(reduction="none"), {})
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
