"""What lean layers do not know runs as it is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from jacfast.lean import PULL, TRAINING, Lean, Sweep
from tests.lean.sweeps import assert_step_is_stock, names, run
from tests.nets import draw

OURS = {"AffineBackward", "PiecewiseBackward", "PiecewiseInPlaceBackward"}


class Tagged(torch.Tensor):
    pass


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*layers).double()


def images(samples=2):
    return draw(samples, 1, 8, 8).requires_grad_()


def of_a_subclass(layer):
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Tagged))
    return layer


def test_weights_of_a_subclass_are_left_to_it():
    torch.manual_seed(0)
    layer, x = of_a_subclass(nn.Conv1d(1, 1, 3).double()), draw(5, 1, 6)
    assert not names(run(layer, x.requires_grad_())[1]) & OURS
    assert_step_is_stock(lambda x: torch.tanh(layer(x)).as_subclass(torch.Tensor), x, [layer.bias])


NOT_OF_A_MODULE = {
    "weight-normalised": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("name", NOT_OF_A_MODULE)
def test_weights_that_are_computed_have_their_gradients(name):
    """Of what they are computed from, in both sweeps."""
    torch.manual_seed(0)
    inner, head = nn.Conv1d(1, 4, 3).double(), nn.Linear(4, 2).double()
    layer = NOT_OF_A_MODULE[name](inner)
    own = [*layer.parameters(), *head.parameters()]

    def f(x):
        return head(torch.tanh(layer(x[:, None])).mean(2))

    assert "ConvolutionBackward0" in names(run(f, draw(5, 6).requires_grad_())[1])
    assert_step_is_stock(f, draw(5, 6), own)


def test_a_weight_that_another_lean_layer_has_made():
    weight = draw(2, 2, 3).requires_grad_()

    def f(x):
        return torch.tanh(F.conv1d(x, torch.relu(F.conv1d(weight, weight, padding=1))))

    assert_step_is_stock(f, draw(5, 2, 6), [weight])


KERNEL, STATISTICS = draw(2, 2, 3), (draw(2), draw(2, seed=2).abs())


def grouped(x, p):
    """Return the convolution of each sample with a kernel of its own."""
    kernels = (KERNEL * p * x.mean((1, 2))[:, None, None, None]).flatten(0, 1)
    return F.conv1d(x.flatten(0, 1)[None], kernels, groups=len(x)).view(len(x), -1)


# Layers whose operands depend on their input and on a parameter p [1].
OF_THE_INPUT = {
    "weight of a convolution": lambda x, p: F.conv1d(x, KERNEL * p * x.mean()),
    "bias of a convolution": lambda x, p: F.conv1d(x, KERNEL, p.expand(2) * x.mean()),
    "weights of a grouped convolution": grouped,
    "weight of a batch-norm": lambda x, p: F.batch_norm(x, *STATISTICS, p.expand(2) * x.mean()),
    "bias of a batch-norm": lambda x, p: F.batch_norm(
        x, *STATISTICS, torch.ones(2).double(), p.expand(2) * x.mean()
    ),
    "weight of a linear layer": lambda x, p: F.linear(x, draw(4, 6) * p * x.mean()),
}


@pytest.mark.parametrize("name", OF_THE_INPUT)
def test_weights_that_are_computed_from_the_input(name):
    """Dynamic filters and conditional norms: J^T v has a part through them."""
    p = draw(1).requires_grad_()
    assert_step_is_stock(lambda x: torch.tanh(OF_THE_INPUT[name](x, p)), draw(5, 2, 6), [p])


def test_inputs_of_a_subclass_are_left_to_it():
    model, x = net().requires_grad_(False), images().detach().as_subclass(Tagged).requires_grad_()
    _, y = run(model, x)
    assert isinstance(y, Tagged)
    assert not names(y) & OURS
    assert names(run(model, images())[1]) >= {"AffineBackward", "PiecewiseInPlaceBackward"}


def test_checkpoints_and_saved_tensor_hooks_go_the_stock_way():
    model, head = net(), nn.Linear(3, 2).double()
    own = [*model.parameters(), *head.parameters()]

    def checkpointed(x):
        return head(torch.tanh(checkpoint(model, x, use_reentrant=False)))

    def hooked(x):
        with torch.autograd.graph.save_on_cpu():
            return head(torch.tanh(model(x)))

    for f in (checkpointed, hooked):
        assert not names(run(f, images())[1]) & OURS
        assert_step_is_stock(f, images(), own)


def test_transforms_and_no_grad_go_the_stock_way():
    model, x = net(), images().detach()
    vector, root = torch.ones_like(x), draw(5, 144).requires_grad_()
    with Lean(Sweep(PULL), TRAINING, root, rows=1 << 40, least=0) as mode:
        rows = torch.func.vmap(torch.func.jacrev(lambda z: model(z[None])[0]))(x)
        _, tangent = torch.func.jvp(model, (x,), (vector,))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x.requires_grad_(), vector)
            forward = torch.autograd.forward_ad.unpack_dual(model(dual)).tangent
        with torch.no_grad():
            assert model(x).grad_fn is None
            assert model[3](root).grad_fn is None
        assert mode.gram is None
        assert "AffineBackward" in names(model(x))
    for k in range(3):
        (want,) = torch.autograd.grad(model(x)[:, k].sum(), x)
        torch.testing.assert_close(rows[:, k], want)
        torch.testing.assert_close(tangent[:, k], want.sum((1, 2, 3)))
    torch.testing.assert_close(forward, tangent)
