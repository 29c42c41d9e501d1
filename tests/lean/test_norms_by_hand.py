"""Normalisation by rows in a penalised step, against differentiable operations written out."""

import pytest
import torch
import torch.nn.functional as F

from tests.lean.sweeps import assert_step_is_stock, step, stock
from tests.lean.test_norms import HW, C, W, by_hand, pytestmark  # noqa: F401  # the same reason to skip
from tests.nets import draw


def in_channels(own):
    return own.view(6, 1, 1)


# PyTorch's third derivative of layer-norm and of instance-norm takes mean and deviation for
# constants (up to 2.15), and its second one of a group-norm of a bias alone raises.
BY_HAND = {
    "layer-norm": (
        lambda x: F.layer_norm(x, (5,), *W, 0.1),
        lambda x: by_hand(x, (3, 24, 5), 0.1) * W[0] + W[1],
        W,
    ),
    "RMSNorm": (
        lambda x: F.rms_norm(x, (4, 5), HW[0], 0.1),
        lambda x: by_hand(x, (3, 6, 20), 0.1, centred=False) * HW[0],
        HW[:1],
    ),
    "group-norm": (
        lambda x: F.group_norm(x, 2, *C, 0.1),
        lambda x: by_hand(x, (3, 2, 60), 0.1) * in_channels(C[0]) + in_channels(C[1]),
        C,
    ),
    "bias alone": (
        lambda x: F.group_norm(x, 3, bias=C[1], eps=0.1),
        lambda x: by_hand(x, (3, 3, 40), 0.1) + in_channels(C[1]),
        C[1:],
    ),
    "instance-norm": (
        lambda x: F.instance_norm(x, weight=C[0], bias=C[1], eps=0.1),
        lambda x: by_hand(x, (3, 6, 20), 0.1) * in_channels(C[0]) + in_channels(C[1]),
        C,
    ),
}


def force(f, scale):
    """Return a model that differentiates itself: a penalty's gradient is a third derivative."""

    def model(x):
        energy = f(x * scale).sin().sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0] * x

    return model


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name, order):
    """Up to the third derivative, against differentiable operations."""
    f, hand, own = BY_HAND[name]
    scale = draw(6, 4, 5, seed=8).requires_grad_()
    models = (
        [force(g, scale) for g in (f, hand)]
        if order == 3
        else [lambda x, g=g: torch.tanh(g(x * scale)) for g in (f, hand)]
    )
    want = stock(models[1], draw(3, 6, 4, 5), [*own, scale])
    y, gradients = step(models[0], draw(3, 6, 4, 5), [*own, scale])
    torch.testing.assert_close(y, want.y)
    for p in (*own, scale):
        torch.testing.assert_close(gradients[p], want.first[p] + want.second[p])


def test_a_model_that_trains_itself_inside():
    """It asks for the gradient of a normalisation's own weight while it runs."""
    weight, bias = (draw(5, seed=k).requires_grad_() for k in (1, 2))

    def model(x):
        loss = F.layer_norm(x, (5,), weight, bias).sin().square().sum()
        steps = torch.autograd.grad(loss, (weight, bias), create_graph=True)
        own = [p - 0.1 * step for p, step in zip((weight, bias), steps, strict=True)]
        return F.layer_norm(x, (5,), *own)

    want = stock(model, draw(4, 5), [weight, bias])
    assert len(want.second) == 2
    assert_step_is_stock(model, draw(4, 5), [weight, bias], False)
