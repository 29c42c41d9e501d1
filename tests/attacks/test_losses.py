"""The losses of attacks: their direction in the logits is the gradient of their value."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import fgsm
from jacfast.attacks.losses import Criterion, cotangent, value
from tests.nets import draw

Y = torch.tensor([0, 3, 1, 4, 2, 2])


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_direction_is_the_gradient_of_the_value(loss):
    z = draw(6, 5).requires_grad_()
    others = z.scatter(1, Y[:, None], float("-inf"))
    rival = others.max(1).values if loss == "margin" else others.logsumexp(1)
    want = rival - z.gather(1, Y[:, None])[:, 0]
    (g,) = torch.autograd.grad(want.sum(), z)
    torch.testing.assert_close(value(loss, z, Y), want.detach())
    torch.testing.assert_close(cotangent(loss, z, Y), g)


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_of_logits_in_lower_precision_the_value_is_float64(dtype, loss):
    """Of 3 and 40,000 bfloat16 holds no difference: restarts, and cuts, go by it."""
    z = (draw(6, 5) * torch.tensor([1.0, 1.0, 1.0, 1.0, 4e4])).to(dtype)
    assert torch.equal(value(loss, z, Y), value(loss, z.double(), Y))


def test_cross_entropy_s_direction_is_its_gradient_but_for_the_length():
    z = draw(6, 5).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(z, Y, reduction="sum"), z)
    away = 1 - z.detach().softmax(1).gather(1, Y[:, None])
    torch.testing.assert_close(cotangent("cross-entropy", z, Y), g / away)


def test_margin_of_a_tie_takes_the_lowest_class():
    z = torch.tensor([[1.0, 2.0, 2.0], [2.0, 2.0, 2.0]])
    got = cotangent("margin", z, torch.tensor([0, 1]))
    assert torch.equal(got, torch.tensor([[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]))


def test_margin_where_every_other_class_is_impossible():
    """The logit of y falls, whichever class y is."""
    z = torch.tensor([[1.0, -float("inf")], [-float("inf"), 1.0]])
    got = cotangent("margin", z, torch.tensor([0, 1]))
    assert torch.equal(got, torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))


def test_misclassified():
    nan, inf = float("nan"), float("inf")
    z = torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0], [nan, 1.0], [1.0, inf], [-inf, 1.0]])
    y = torch.zeros(6, dtype=torch.int64)
    assert Criterion(y).met(z).tolist() == [False, True, False, False, False, True]
    assert Criterion(y).met(z, 1.5).tolist() == [False, False, False, False, False, True]
    assert Criterion(y).met(z, 0.5).tolist() == [False, True, False, False, False, True]


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 30.0), (torch.float16, 15.0)])
def test_gradient_of_a_sure_network(dtype, gap):
    """p_y rounds to 1, but the gradient still holds w_y: its sign is that in float64."""
    weight = torch.tensor([[4.0, 1.0, -1.0], [1.0, 2.0, -2.0], [1.0, 0.5, 1.0]])
    model = nn.Linear(3, 3)
    model.weight.data, model.bias.data = weight, torch.tensor([gap, 0.0, 0.0])
    x = torch.zeros(1, 3)
    p = model.double()(x.double()).softmax(1).detach()
    want = ((p - torch.tensor([[1.0, 0.0, 0.0]])) @ weight.double()).sign().to(dtype)
    lost = (p * torch.tensor([[0.0, 1.0, 1.0]])) @ weight.double()
    assert not torch.equal(lost.sign().to(dtype), want)  # what d CE / dz in this dtype would give
    assert model.to(dtype)(x.to(dtype)).softmax(1)[0, 0] == 1
    got = fgsm(model, x.to(dtype), eps=1.0, clip=None)
    assert torch.equal(got, want)
