"""A model runs with lean layers for a while, to train it, and is then what it was."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.lean import TRAINING, Lean, Sink
from tests.lean.sweeps import assert_step_is_stock
from tests.nets import NETS, build, draw


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*layers).double()


def images(samples=2):
    return draw(samples, 1, 8, 8).requires_grad_()


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_whole_models_are_pytorchs(name):
    model, x = build(name)
    assert_step_is_stock(model, x, list(model.parameters()))


def test_shared_weights():
    layer = nn.Linear(6, 6).double()

    def f(x):
        h = torch.tanh(layer(F.relu(layer(x))))
        return F.linear(h, layer.weight.t()) + F.linear(h, layer.weight[:, :6])

    assert_step_is_stock(f, draw(5, 6), list(layer.parameters()))


def test_a_layer_on_a_parameter_and_a_parameter_for_both():
    token, weight = draw(1, 6).requires_grad_(), draw(6, 6, seed=2).requires_grad_()

    def f(x):
        return torch.tanh(
            F.linear(token, weight) * F.linear(x, weight) + F.linear(weight, weight)[:5]
        )

    assert_step_is_stock(f, draw(5, 6), [token, weight])


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 6), lambda: nn.Conv1d(1, 1, 3, padding=1)])
def test_a_model_that_differentiates(make):
    """An energy whose gradient the model returns: the penalty is a third derivative."""
    layer, head = make().double(), nn.Linear(6, 2).double()

    def f(x):
        inner = layer(x if isinstance(layer, nn.Linear) else x[:, None])
        (force,) = torch.autograd.grad(torch.tanh(inner).sum(), x, create_graph=True)
        return head(force)

    assert_step_is_stock(f, draw(5, 6), [*layer.parameters(), *head.parameters()])


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "3.weight", "3.bias"])
def test_frozen_parameters(frozen):
    model = net()
    model.get_parameter(frozen).requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert len(parameters) == 3
    assert_step_is_stock(model, images(), parameters)


def test_the_model_is_as_it_was_and_hooks_run():
    model, seen = net(), []
    model[0].register_forward_hook(lambda *call: seen.append(call[2].grad_fn.name()))
    before, state = dict(vars(model[0])), list(model.state_dict())
    with Lean(Sink(model.parameters()), TRAINING):
        model(images())
        assert list(model.state_dict()) == state
        assert vars(model[0]) == before
    model(images())
    with pytest.raises(RuntimeError, match="size"), Lean(Sink(model.parameters()), TRAINING):
        model(torch.zeros(1, 1, 2, 9, dtype=torch.float64, requires_grad=True))
    model(images())
    assert seen == ["ConvBackward", "ConvolutionBackward0", "ConvolutionBackward0"]
