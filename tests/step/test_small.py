"""Steps without a penalty, hooks, and models that cannot be differentiated twice."""

import pytest
import torch
from torch import nn

from jacfast import Frobenius, WithPenalty, forward_with_penalty, penalised
from tests.nets import build
from tests.step.networks import build as build_six


def test_no_penalty_is_the_model_and_zero():
    model, x = build("mlp")
    logits, penalty = WithPenalty(model, Frobenius())(x, penalty=None)
    assert torch.equal(logits, model(x))
    assert logits.grad_fn.name() == "AddmmBackward0"  # no node: the plain graph
    assert penalty == 0
    assert penalty.dtype == torch.float64


@pytest.mark.parametrize(
    "register",
    [
        lambda model, seen: model.register_forward_hook(
            lambda *call: seen.append(1) or 2 * call[2]
        ),
        lambda model, seen: model.register_forward_pre_hook(
            lambda _model, args: (seen.append(1) or 2 * args[0],)
        ),
        lambda model, seen: model[0].register_forward_hook(lambda *_: seen.append(1)),
    ],
)
def test_hooks_run_once(register):
    model, x = build("mlp")
    seen = []
    register(model, seen)
    expected = model(x)
    seen.clear()
    with penalised(model, penalty=Frobenius(subsample=0.5)) as held:
        logits = model(x)
    assert seen == [1]
    assert torch.equal(logits, expected)
    assert held.penalty > 0


def test_logits_without_a_graph_are_refused():
    class Detached(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(ValueError, match="outputs do not depend on x"):
        forward_with_penalty(Detached(6, 5), torch.rand(4, 6))


def test_devices_without_autocast():
    model, x, _ = build_six("mlp")
    logits, penalty = forward_with_penalty(model.to("meta"), x.to("meta"), penalty=Frobenius())
    assert logits.device.type == penalty.device.type == "meta"
