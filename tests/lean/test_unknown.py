"""What lean layers do not know runs as it is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from jacfast.lean import TRAINING, Lean, Sink
from tests.lean.sweeps import assert_step_is_stock, names
from tests.nets import draw

OURS = {"LinearBackward", "ConvBackward", "ReLUBackward", "ReLUInPlaceBackward"}


class Tagged(torch.Tensor):
    pass


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*layers).double()


def images(samples=2):
    return draw(samples, 1, 8, 8).requires_grad_()


def outside(layer):
    return nn.Linear(6, 6).double()


def of_a_subclass(layer):
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Tagged))
    return layer


UNKNOWN = {
    "not a parameter of the model": outside,
    "weight-normalised": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "a tensor subclass": of_a_subclass,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_weights_it_does_not_know_are_left_to_autograd(name):
    torch.manual_seed(0)
    inner, head = nn.Linear(6, 6).double(), nn.Linear(6, 2).double()
    layer = UNKNOWN[name](inner)
    own = [*inner.parameters(), *head.parameters()]
    x, sink = draw(5, 6).requires_grad_(), Sink(own)
    with Lean(sink, TRAINING):
        assert not names(layer(x)) & OURS
    if name != "not a parameter of the model":
        assert_step_is_stock(lambda x: head(torch.tanh(layer(x))), x, own)
        return
    with Lean(sink, TRAINING):
        y = head(torch.tanh(layer(x)))
    (got,) = torch.autograd.grad(y.sum(), layer.weight)
    (want,) = torch.autograd.grad(head(torch.tanh(layer(x))).sum(), layer.weight)
    torch.testing.assert_close(got, want)


def test_inputs_of_a_subclass_are_left_to_it():
    x = draw(5, 6).as_subclass(Tagged).requires_grad_()
    sink, model = Sink(net().parameters()), nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double()
    with Lean(sink, TRAINING):
        y = model.requires_grad_(False)(x)
        assert isinstance(y, Tagged)
        assert not names(y) & OURS
        assert names(model(x.as_subclass(torch.Tensor))) >= {"LinearBackward", "ReLUBackward"}


def test_a_bias_it_does_not_know():
    weight, bias = draw(4, 6).requires_grad_(), draw(4).requires_grad_()
    with Lean(Sink([weight]), TRAINING):
        y = F.linear(draw(5, 6).requires_grad_(), weight, bias)
    assert not names(y) & OURS
    assert torch.equal(torch.autograd.grad(y.sum(), bias)[0], torch.full((4,), 5.0).double())


def test_checkpoints_and_saved_tensor_hooks_go_the_stock_way():
    model, head = net(), nn.Linear(3, 2).double()
    own = [*model.parameters(), *head.parameters()]

    def checkpointed(x):
        return head(torch.tanh(checkpoint(model, x, use_reentrant=False)))

    def hooked(x):
        with torch.autograd.graph.save_on_cpu():
            return head(torch.tanh(model(x)))

    for f in (checkpointed, hooked):
        with Lean(Sink(own), TRAINING):
            assert "ConvBackward" not in names(f(images()))
        assert_step_is_stock(f, images(), own)


def test_transforms_and_no_grad_go_the_stock_way():
    model, x = net(), images().detach()
    sink, vector = Sink(model.parameters()), torch.ones_like(x)
    with Lean(sink, TRAINING):
        rows = torch.func.vmap(torch.func.jacrev(lambda z: model(z[None])[0]))(x)
        _, tangent = torch.func.jvp(model, (x,), (vector,))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x.requires_grad_(), vector)
            forward = torch.autograd.forward_ad.unpack_dual(model(dual)).tangent
        with torch.no_grad():
            assert model(x).grad_fn is None
            sink.begin(draw(5, 144).requires_grad_())
            assert model[3](sink.root).grad_fn is None
        assert "ConvBackward" in names(model(x))
    for k in range(3):
        (want,) = torch.autograd.grad(model(x)[:, k].sum(), x)
        torch.testing.assert_close(rows[:, k], want)
        torch.testing.assert_close(tangent[:, k], want.sum((1, 2, 3)))
    torch.testing.assert_close(forward, tangent)
