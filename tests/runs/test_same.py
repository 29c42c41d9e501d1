"""What makes two calls the same run: what a checksum tells apart, and how far roundings go."""

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from jacfast.runs import behaviour, check_behaviour, checksum, plain


def test_a_checksum_tells_apart_what_has_the_same_bytes():
    zeros = torch.zeros(4, 6)
    others = [zeros.view(6, 4), zeros.view(24), zeros.int()]
    found = [checksum([(name, value)]) for name in "ab" for value in (zeros, *others)]
    assert len({*found}) == len(found)
    assert checksum([("a", zeros.clone())]) == found[0]
    assert checksum([("a", zeros.T.contiguous().T)]) == found[0]  # whatever the layout


@pytest.mark.filterwarnings("ignore:the model has dropout")
def test_what_a_model_does_is_what_it_does_in_eval_mode():
    """Also where gradients are off; by plain autograd, and nothing is left changed."""
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    x = torch.randn(5, 3)
    model(x)  # so that its statistics are not those that it began with
    model.eval()
    leaf = x[:1].clone().requires_grad_()
    mixed = (model(leaf) * torch.arange(4).cos()).sum()
    want = {"logits": model(x).detach(), "slope": torch.autograd.grad(mixed, leaf)[0]}
    model.train()
    before = copy.deepcopy(model.state_dict())
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(behaviour(model, x, 2), want)
    assert model.training
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_arguments_of_samples_go_along_with_them():
    x, shift = torch.randn(5, 4), torch.randn(5, 4)
    found = behaviour(lambda x, shift: x.sin() * shift, x, 2, args=(shift,))
    torch.testing.assert_close(found["logits"], x.sin() * shift)
    slope = x[:1].cos() * shift[:1] * torch.arange(4).cos()
    torch.testing.assert_close(found["slope"], slope)


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


def test_a_checksum_of_what_else_a_state_may_hold():
    t, z = torch.ones(2, 3), torch.tensor([1 + 2j, 3 - 1j])
    values = [
        *(torch.quantize_per_tensor(t, scale, 0, torch.qint8) for scale in (0.5, 0.25)),
        *(torch.quantize_per_tensor(shift * t, 0.5, 0, torch.qint8) for shift in (2, 3)),
        *(scale * torch.eye(3).to_sparse() for scale in (1, 2)),
        *(t, z, z.conj()),
        *({"a": t}, {"b": t}, {"a": t + 1}, {"a": {"a": t}}),
        *((t,), (t, t), (t, t + 1), (t + 1, t)),
        *("word", "words", 1, 1.0, None, True),
    ]
    found = [checksum([("a", value)]) for value in values]
    same = {(0, 1)}  # the same numbers, written in two ways
    for i, j in itertools.combinations(range(len(values)), 2):
        assert (found[i] == found[j]) == ((i, j) in same), (values[i], values[j])
    assert found == [checksum([("a", copy.deepcopy(value))]) for value in values]
    assert checksum([("a", z.conj())]) == checksum([("a", z.conj().resolve_conj())])


def test_a_slope_that_has_become_nan_is_another():
    then = {"slope": torch.tensor([[3.0, 4.0, math.nan]])}
    check_behaviour("here", then, {"slope": torch.tensor([[3.0, 4.4, math.nan]])})  # a unit flips
    others = [3.0, 4.0, 0.0], [3.0, math.nan, math.nan], [3.0, 4.6, math.nan], [3.0, 4.0]
    for wrong in others:
        with pytest.raises(ValueError, match="here belongs to another run: the model's slope"):
            check_behaviour("here", then, {"slope": torch.tensor([wrong])})


@pytest.mark.parametrize("name", ["logits", "slope"])
def test_other_shapes_and_dtypes_are_others(name):
    """Of one class more, also of one that could be spread to these; logits of another precision.

    And so is what a file lacks.
    """
    then = torch.ones(2, 3)
    with pytest.raises(ValueError, match=f"here belongs to another run: the model's {name}"):
        check_behaviour("here", {}, {name: then})
    others = [torch.ones(2, 1), torch.ones(2, 4), torch.ones(1, 3)]
    others += [torch.ones(2, 3).bfloat16()] if name == "logits" else []
    for now in others:
        with pytest.raises(ValueError, match=f"here belongs to another run: the model's {name}"):
            check_behaviour("here", {name: then}, {name: now})


@pytest.mark.parametrize(
    ("value", "want"),
    [
        *((number, number) for number in (3, 0.5, True, None, "max")),
        *((kind(3), 3) for kind in (np.int64, np.uint8, np.array)),
        (np.array([0.5, 1.0]), [0.5, 1.0]),
        ((np.float32(0.5), (np.int8(1), None)), [0.5, [1, None]]),
        ({"eps": np.float32(0.5), 3: (1,)}, {"eps": 0.5, "3": [1]}),
        ([torch.ones(2)], [checksum([("tensor", torch.ones(2))])]),
    ],
)
def test_an_option_as_json_has_it(value, want):
    found = plain("option", value)
    assert json.loads(json.dumps(found)) == found == want
    assert type(found) is type(want)


@pytest.mark.parametrize("value", [object(), 1j, {"eps": {1}}])
def test_an_option_that_cannot_be_written_down(value):
    with pytest.raises(TypeError, match="eps must be a number, a tensor, a string or None; got"):
        plain("eps", value)
