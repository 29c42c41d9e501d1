"""What may happen between a recorded step and its backward pass, and after it."""

import pytest
import torch

from jacfast import Frobenius
from tests.nets import relative_error
from tests.step.networks import build
from tests.step.steps import ROUNDING, fast, gradient, loss_of, plain, step


@pytest.mark.parametrize("penalty", [Frobenius(), Frobenius("exact")])
def test_what_is_changed_before_the_backward_pass(penalty):
    model, x, y = build("mlp")
    for _ in range(2):
        loss = loss_of(*fast(model, x, y, penalty, compiled="traced"), y)
        with torch.no_grad():
            model[2].weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    assert all(p.grad is None for p in model.parameters())


def test_what_the_backward_pass_does_not_need_may_be_changed():
    model, x, y = build("mlp")
    x = x.clone()
    want = step(plain, model, x, y, Frobenius("exact"))[2]
    loss = loss_of(*fast(model, x, y, Frobenius("exact"), compiled="traced"), y)
    x.zero_()
    model[4].bias.data.add_(1)
    assert relative_error(gradient(loss, model), want) < ROUNDING


def test_backward_twice_and_a_gradient_of_the_gradient():
    model, x, y = build("mlp")
    loss = loss_of(*fast(model, x, y, Frobenius(), compiled="traced"), y)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()
    loss = loss_of(*fast(model, x, y, Frobenius(), compiled="traced"), y)
    grads = torch.autograd.grad(loss, model.parameters(), create_graph=True)
    with pytest.raises(RuntimeError, match="was differentiated"):
        sum(g.sum() for g in grads).backward()
