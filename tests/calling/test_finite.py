"""What NaN and infinity mean in logits."""

import math

import pytest
import torch
from torch import nn

from jacfast.calling import apart, check_weights, classes_of, largest
from jacfast.runs import check_behaviour

INF, NAN = math.inf, math.nan


def test_classes():
    z = torch.tensor([[1.0, 2.0], [-INF, 0.0], [NAN, 3.0], [3.0, NAN], [INF, 0.0], [-INF, -INF]])
    assert classes_of(z).tolist() == [1, 1, -1, -1, -1, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_largest_that_is_finite(dtype):
    z = torch.tensor([[1.0, -2.0], [-INF, 0.5], [NAN, INF]], dtype=dtype)
    assert largest(z).tolist() == [2.0, 0.5, 0.0]


def test_apart():
    a = torch.tensor([1.0, INF, -INF, NAN, INF, NAN, 3.0, -INF])
    b = torch.tensor([3.5, INF, -INF, NAN, -INF, 1.0, NAN, 0.0])
    assert apart(a, b).tolist() == [2.5, 0, 0, 0, INF, INF, INF, INF]
    assert torch.equal(apart(b, a), apart(a, b))


def test_a_run_is_the_same_where_the_same_logits_are_infinite():
    then = {"logits": torch.tensor([[1.0, -INF, NAN], [2.0, 3.0, INF]])}
    check_behaviour("here", then, {"logits": then["logits"].clone()})
    for row, column, value in ((0, 0, 1.01), (0, 1, INF), (0, 1, NAN), (0, 2, 0), (1, 1, -INF)):
        now = then["logits"].clone()
        now[row, column] = value
        with pytest.raises(ValueError, match="here belongs to another run: the model's logits"):
            check_behaviour("here", then, {"logits": now})


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_buffer_may_mask_and_no_more(value):
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, -INF]))
    check_weights(model)
    model.mask[0] = value
    with pytest.raises(ValueError, match="buffer mask must be finite; 1 of its 2 entries"):
        check_weights(model)
