"""What a model does in a later call that it did not do in the one that was watched."""

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from jacfast.penalties import Frobenius, InputGradient
from tests.step.steps import assert_same, fast, plain, step

pytestmark = pytest.mark.parametrize("size", ["small"])


def test_without_gradients_nothing_is_kept(size, switching):
    model, x, y = switching
    fast(model, x, y, Frobenius())
    with torch.no_grad():
        logits, value = fast(model, x, y, Frobenius())
    assert not logits.requires_grad
    assert not value.requires_grad


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("leaf", RuntimeError, "not one of model.parameters"),
        ("coupled", RuntimeError, "each sample's logits depend on the whole batch"),
        ("function", RuntimeError, "an operation without a second derivative"),
        ("detached", ValueError, "do not depend on x"),
    ],
)
def test_what_is_new_in_a_later_call_is_refused_as_in_a_first(kind, error, words, size, switching):
    model, x, y = switching
    fast(model, x, y, Frobenius())
    model.kind = kind
    with pytest.raises(error, match=words):
        fast(model, x, y, Frobenius())


def test_a_missing_second_derivative_that_is_new(size, switching):
    model, x, y = switching
    fast(model, x, y, Frobenius())
    model.kind = "margin"
    logits, value = fast(model, x, None, Frobenius())
    with pytest.raises(RuntimeError, match="the penalty needs second derivatives of every"):
        (logits.sum() + value).backward()


@pytest.mark.parametrize("kind", ["attention", "checkpoint"])
def test_attention_and_checkpoints_that_are_new_have_the_right_gradient(kind, size, switching):
    model, x, y = switching
    fast(model, x, y, Frobenius())
    model.kind = kind
    assert_same(*(step(way, model, x, y, Frobenius()) for way in (fast, plain)))


def test_a_model_with_a_checkpoint_is_watched_in_every_call(size, switching, watched):
    model, x, y = switching
    model.kind = "checkpoint"
    for _ in range(3):
        fast(model, x, y, Frobenius())
    assert len(watched) == 3


@pytest.mark.parametrize(
    "penalty", [Frobenius(), InputGradient(), Frobenius(subsample=0.4)], ids=repr
)
def test_attention_that_is_in_a_checkpoint_from_now_on(penalty, size, switching, watched):
    """It is called once all the same, and its backward pass finds what the forward pass found."""
    model, x, y = switching
    model.kind, calls = "attention", []
    fast(model, x, y, penalty)
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    model.kind = "attention in a checkpoint"
    found = step(fast, model, x, y, penalty)
    assert len(calls) == 1
    want = step(fast, copy.deepcopy(model), x, y, penalty)
    assert_same(found, want)
    fast(model, x, y, penalty)
    assert len(watched) == 4
    if penalty.subsample == 1:
        with sdpa_kernel(SDPBackend.MATH):
            assert_same(found, step(plain, model, x, y, penalty))


def test_hooks_of_saved_tensors_around_the_call(size, switching, watched):
    model, x, y = switching
    want = step(fast, model, x, y, Frobenius())
    with torch.autograd.graph.save_on_cpu():
        found = step(fast, model, x, y, Frobenius())
    assert len(watched) == 2
    assert_same(found, want)


def test_a_model_in_training_mode_is_refused_as_before(size, switching):
    model, x, y = switching
    fast(model, x, y, Frobenius())
    with pytest.raises(RuntimeError, match="batch-norm in training"):
        fast(model.train(), x, y, Frobenius())


def test_other_weights_are_seen(size, switching):
    model, x, y = switching
    fast(model, x, y, Frobenius())
    with torch.no_grad():
        model.last.weight.mul_(2)
        model.norm.running_var.mul_(3)
    assert_same(*(step(way, model, x, y, Frobenius()) for way in (fast, plain)))
