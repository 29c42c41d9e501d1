"""Lean layers for rows of the Jacobian: which layers `lean(model)` takes, and which not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import jacobian
from jacfast.graph import nodes
from jacfast.lean import lean
from tests.lean.sweeps import names
from tests.nets import draw


class Own(nn.Conv2d):
    pass


def net(make=nn.Conv2d):
    torch.manual_seed(0)
    layers = [make(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)]
    return nn.Sequential(*layers).double().requires_grad_(False)


def leaf(samples=2):
    return draw(samples, 1, 8, 8).requires_grad_()


def own_forward():
    model = net()
    model[0].forward = lambda x: nn.Conv2d.forward(model[0], x)
    return model


def parametrised():
    return nn.utils.parametrizations.weight_norm(net()[0]).requires_grad_(False)


class Functional(nn.Module):
    def forward(self, x):
        return F.conv2d(x, draw(2, 1, 3, 3), stride=2)


KNOWN = {
    "a layer": net,
    "a subclass": lambda: net(Own),
    "a forward of its own": own_forward,
    "a parametrisation": parametrised,
    "a function": Functional,
}


@pytest.mark.parametrize("name", KNOWN)
def test_first_convolutions_are_lean(name):
    model, x = KNOWN[name](), leaf()
    with lean(model):
        y = model(x)
    assert "AffineBackward" in names(y)
    assert torch.equal(y, model(x))
    v = draw(*y.shape)
    torch.testing.assert_close(*(torch.autograd.grad(z, x, v)[0] for z in (y, model(x))))
    assert "AffineBackward" not in names(model(x))


def test_parameters_that_require_grad_are_left_to_autograd():
    model = net()
    for p in model[0].parameters():
        p.requires_grad_()
        with lean(model):
            y = model(leaf())
        assert "AffineBackward" not in names(y)
        assert torch.autograd.grad(y.sum(), p)[0].any()
        p.requires_grad_(False)
    with lean(model):
        assert "AffineBackward" in names(model(leaf()))


def test_second_derivatives_in_the_input():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3), nn.Tanh())
    model.double().requires_grad_(False)
    x, second = leaf(), []
    with lean(model):
        y = model(x)
    assert "AffineBackward" in names(y)
    for z in (y, model(x)):
        (g,) = torch.autograd.grad(z.sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g.square().sum(), x, create_graph=True)
        second += [h, torch.autograd.grad(h.square().sum(), x)[0]]
    torch.testing.assert_close(second[:2], second[2:])


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (5, {}),
        (2, {"groups": 2}),
        (2, {"dilation": 2}),
        (2, {"stride": (1, 2)}),
        (2, {"padding": "same"}),
        (2, {"padding": 3}),
    ],
    ids=str,
)
def test_other_convolutions_go_the_stock_way(channels, options):
    layer = nn.Conv2d(channels, 4, 3, **options).double().requires_grad_(False)
    x = draw(2, channels, 9, 9).requires_grad_()
    with lean(layer):
        assert layer(x).grad_fn.name() == "ConvolutionBackward0"
        assert "AffineBackward" not in names(layer(x[0]))


def test_functions_of_modules_are_looked_through():
    model = net()
    with lean(lambda x: model(x)):
        assert "AffineBackward" in names(model(leaf()))


def test_functions_of_no_module_go_the_stock_way():
    weight = draw(4, 1, 3, 3)
    with lean(lambda x: torch.conv2d(x, weight)):
        assert "AffineBackward" not in names(torch.conv2d(leaf(), weight))


def test_models_with_compiled_parts_go_the_stock_way():
    compiled = nn.Sequential(net(), nn.Linear(3, 2))
    compiled[1].compile(backend="eager")
    wrapped = nn.Sequential(net(), torch.compile(nn.Linear(3, 2), backend="eager"))
    for model in (compiled, wrapped):
        with lean(model):
            assert "AffineBackward" not in names(model[0](leaf()))


def test_transforms_autocast_and_no_grad_go_the_stock_way():
    model, x = net().float(), leaf().detach().float()
    with lean(model):
        rows = torch.func.vmap(torch.func.jacrev(lambda z: model(z[None])[0]))(x)
        _, tangent = torch.func.jvp(model, (x,), (torch.ones_like(x),))
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x.requires_grad_())
        with torch.no_grad():
            plain = model(x)
        assert "AffineBackward" in names(model(x))
    assert half.dtype == torch.bfloat16
    assert "AffineBackward" not in names(half)
    assert plain.grad_fn is None
    torch.testing.assert_close(rows, jacobian(model, x))
    torch.testing.assert_close(tangent, rows.sum((2, 3, 4)))


def test_layers_of_any_size_are_lean():
    """What pays in training, where a graph is differentiated, is another question."""
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.BatchNorm2d(1), nn.MaxPool2d(1)).double().eval()
    x = draw(1, 1, 2, 2).requires_grad_()
    with lean(model.requires_grad_(False)):
        y = model(x)
    assert names(model[0](x)) != names(y)
    assert [node.name() for node in nodes(y)].count("AffineBackward") == 2
    v = draw(*y.shape)
    torch.testing.assert_close(*(torch.autograd.grad(z, x, v)[0] for z in (y, model(x))))
