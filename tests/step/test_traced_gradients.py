"""compiled="traced": whichever gradients come in and are asked for, they are plain autograd's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import Frobenius, InputGradient, forward_with_penalty
from tests.nets import relative_error
from tests.step.entries import ENTRIES
from tests.step.networks import SIX, build
from tests.step.others import OTHERS
from tests.step.steps import ROUNDING, assert_same, fast, gradient, loss_of, plain
from tests.step.tracing import assert_traced

pytestmark = pytest.mark.usefixtures("never_eager")


@pytest.mark.parametrize("name", SIX)
def test_x_receives_its_gradient(name):
    model, x, y = build(name, 5)
    model.eval()
    for _ in range(2):
        grads = []
        for way, options in ((fast, {"compiled": "traced"}), (plain, {})):
            leaf = x.clone().requires_grad_()
            outputs = way(model, 2 * leaf, y, Frobenius("exact"), **options)
            grads.append(gradient(loss_of(*outputs, y), model, leaf))
        assert relative_error(*grads) < ROUNDING
        assert relative_error(*(g[-x.numel() :] for g in grads)) < ROUNDING
    assert_traced(model, 1)


@pytest.mark.parametrize("entering", ["logits", "penalty"])
@pytest.mark.parametrize("penalty", [Frobenius(), InputGradient()], ids=["one", "of the loss"])
@pytest.mark.parametrize("name", SIX)
def test_only_one_of_the_two_enters_the_loss(name, penalty, entering):
    model, x, y = build(name)
    grads = []
    for way, options in ((fast, {"compiled": "traced"}), (plain, {})):
        torch.manual_seed(0)
        logits, value = way(model, x, y, penalty, **options)
        loss = F.cross_entropy(logits, y) if entering == "logits" else value
        grads.append(gradient(loss, model))
    assert relative_error(*grads) < ROUNDING


class Infinite(nn.Module):
    """A network whose logits are finite, and whose Jacobian is not where x is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return self.last(self.first(x.sign() * x.abs().sqrt()).tanh() * self.scale)


@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])
def test_an_infinity_of_the_penalty_stays_out_where_only_the_logits_are_used(penalty):
    torch.manual_seed(0)
    model, y = Infinite().double(), torch.arange(5) % 3
    x = torch.randn(5, 4, dtype=torch.float64)
    x[0] = 0
    for _ in range(2):
        logits, value = fast(model, x, y, penalty, compiled="traced")
        assert not value.isfinite()
        want = gradient(F.cross_entropy(model(x), y), model)
        assert relative_error(gradient(F.cross_entropy(logits, y), model), want) < ROUNDING
    assert_traced(model, 1)


@pytest.mark.parametrize("entering", ["logits", "penalty"])
@pytest.mark.parametrize("name", ["unused", "shift", "mlp"])
def test_parameters_that_nothing_depends_on_receive_nothing(name, entering):
    """None, as in eager mode, also where only one of the two enters the loss."""
    without = []
    for compiled in (None, "traced"):
        model, x, y = build(name, nets=SIX | OTHERS | ENTRIES)
        logits, value = fast(model, x, y, Frobenius("exact"), compiled=compiled)
        (F.cross_entropy(logits, y) if entering == "logits" else value).backward()
        without.append({n for n, p in model.named_parameters() if p.grad is None})
    assert without[0] == without[1]


def test_gradients_that_come_in_without_memory_of_their_own():
    """Of a sum: one number, expanded."""
    model, x, y = build("vit")
    logits, value = fast(model, x, y, Frobenius("exact"), compiled="traced")
    want, other = plain(model, x, y, Frobenius("exact"))
    assert_same(
        [gradient(logits.sum() + value, model)], [gradient(want.sum() + other, model)], 1e-8
    )


def test_gradients_that_come_in_in_another_layout():
    """A recorded view of what is contiguous does not fit what is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Unflatten(1, (2, 3, 2))).double()
    x, factor = torch.randn(4, 6).double(), torch.randn(4, 2, 3, 2).double()
    grads = []
    for way, options in ((fast, {"compiled": "traced"}), (plain, {})):
        logits, value = way(model, x, None, Frobenius("exact"), **options)
        weighted = logits.permute(0, 3, 2, 1).contiguous() * factor
        grads.append(gradient(weighted.sum() + value, model))
    assert relative_error(*grads) < ROUNDING
    assert_traced(model, 1)


def test_an_infinite_penalty_that_nobody_uses_stays_out():
    """Of a large network, whose penalty's gradient is there before its weight is."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).double()
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    grads = []
    for compiled in (None, "traced"):
        with torch.no_grad():
            model[3].weight.fill_(1.0)
        forward_with_penalty(model, x, penalty=Frobenius("exact"), compiled=compiled)
        with torch.no_grad():
            model[3].weight.fill_(1e200)
        model.zero_grad()
        logits, value = forward_with_penalty(
            model, x, penalty=Frobenius("exact"), compiled=compiled
        )
        assert not value.isfinite()
        (logits.sum() * 1e-200).backward()
        grads.append([p.grad for p in model.parameters()])
    for ours, want in zip(*reversed(grads), strict=True):
        assert want.isfinite().all()
        torch.testing.assert_close(ours, want)
