"""What makes two calls the same run: what a checksum tells apart, and how far roundings go."""

import math

import pytest
import torch

from jacfast.runs import check_behaviour, checksum


def test_a_checksum_tells_apart_what_has_the_same_bytes():
    zeros = torch.zeros(4, 6)
    others = [zeros.view(6, 4), zeros.view(24), zeros.int()]
    found = [checksum([(name, value)]) for name in "ab" for value in (zeros, *others)]
    assert len({*found}) == len(found)
    assert checksum([("a", zeros.clone())]) == found[0]
    assert checksum([("a", zeros.T.contiguous().T)]) == found[0]  # whatever the layout


def test_small_logits_may_round_as_the_batch_does():
    """They are differences of sums as large as those of other samples."""
    then = {"logits": torch.tensor([[100.0, -50.0], [1e-6, 0.0]])}
    now = {"logits": then["logits"] + torch.tensor([[0.0, 0.0], [5e-3, 0.0]])}
    check_behaviour("here", then, now)
    now["logits"][1, 0] += 1e-2  # of 1024 epsilons of 50: 6e-3
    with pytest.raises(ValueError, match="here belongs to another run: the model's logits"):
        check_behaviour("here", then, now)


def test_large_logits_round_as_they_are_large():
    then = {"logits": torch.cat([torch.full((1, 2), 1e4), torch.ones(999, 2)])}
    now = {"logits": then["logits"].clone()}
    now["logits"][0, 0] += 0.5  # of 1024 epsilons of 1e4: 1.2; of 11, their mean: 1.3e-3
    check_behaviour("here", then, now)
    now["logits"][0, 0] += 1.0
    with pytest.raises(ValueError, match="here belongs to another run: the model's logits"):
        check_behaviour("here", then, now)


def test_a_slope_that_has_become_nan_is_another():
    then = {"slope": torch.tensor([[3.0, 4.0, math.nan]])}
    check_behaviour("here", then, {"slope": torch.tensor([[3.0, 4.4, math.nan]])})  # a unit flips
    for wrong in ([3.0, 4.0, 0.0], [3.0, math.nan, math.nan], [3.0, 4.6, math.nan]):
        with pytest.raises(ValueError, match="here belongs to another run: the model's slope"):
            check_behaviour("here", then, {"slope": torch.tensor([wrong])})


@pytest.mark.parametrize("name", ["logits", "slope"])
def test_other_shapes_and_dtypes_are_others(name):
    """Of one class more, also of one that could be spread to these; logits of another precision."""
    then = torch.ones(2, 3)
    others = [torch.ones(2, 1), torch.ones(2, 4), torch.ones(1, 3)]
    others += [torch.ones(2, 3).bfloat16()] if name == "logits" else []
    for now in others:
        with pytest.raises(ValueError, match=f"here belongs to another run: the model's {name}"):
            check_behaviour("here", {name: then}, {name: now})
