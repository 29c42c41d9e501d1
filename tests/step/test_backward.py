"""What backward() leaves behind: gradients that add up, none where there is none, no memory."""

import gc
import weakref

import pytest
import torch

from jacfast import Frobenius, InputGradient
from tests.nets import relative_error
from tests.step.networks import SIX, build
from tests.step.others import OTHERS
from tests.step.steps import LAM, ROUNDING, fast, loss_of, plain, step


@pytest.mark.parametrize("name", SIX)
def test_backward_adds_to_what_is_there(name):
    """Two calls into the same .grad; parameters that nothing depends on receive none."""
    model, x, y = build(name)
    model.eval()
    for part in (slice(0, 3), slice(3, 4)):
        loss_of(*fast(model, x[part], y[part], Frobenius("exact")), y[part]).backward()
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    want = sum(
        step(plain, model, x[part], y[part], Frobenius("exact"))[2]
        for part in (slice(0, 3), slice(3, 4))
    )
    assert relative_error(got, want) < ROUNDING


def test_unused_and_frozen_parameters_receive_nothing():
    for name in ("unused", "frozen"):
        model, x, y = build(name, nets=OTHERS)
        logits, value = fast(model, x, y, Frobenius())
        (logits.sum() + LAM * value).backward()
        without = {n for n, p in model.named_parameters() if p.grad is None}
        if name == "unused":
            assert without == {"never.weight", "never.bias", "cut.weight", "cut.bias"}
        else:
            assert without == {n for n, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("penalty", [Frobenius(), InputGradient()])
@pytest.mark.parametrize("name", ["mlp", "cifar"])
def test_memory_is_freed_with_the_outputs(name, penalty, backward):
    """Without the garbage collector: nothing refers to itself."""
    model, x, y = build(name)
    gc.disable()
    try:
        logits, value = fast(model, x, y, penalty)
        if backward:
            loss_of(logits, value, y).backward()
        kept = weakref.ref(x)
        del x, logits, value
        assert kept() is None
    finally:
        gc.enable()
