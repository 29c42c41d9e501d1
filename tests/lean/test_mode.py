"""A model runs with lean layers for a while, to train it, and is then what it was."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.lean import PULL, TRAINING, Lean, Sweep, tables
from tests.lean.sweeps import assert_step_is_stock, directions, names, run
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


def norm():
    layer = nn.BatchNorm1d(1).eval()
    with torch.no_grad():
        layer.weight.fill_(1.5)
        layer.running_var.fill_(0.5)
    return layer


DIFFERENTIATED = {
    "linear": lambda: nn.Linear(6, 6),
    "convolution": lambda: nn.Conv1d(1, 1, 3, padding=1),
    "frozen convolution": lambda: nn.Conv1d(1, 1, 3, padding=1).requires_grad_(False),
    "convolution by blocks": lambda: nn.Sequential(
        nn.Unflatten(2, (2, 3)), nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(2)
    ),
    "batch-norm": norm,
    "two": lambda: nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv1d(2, 1, 1)),
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_a_model_that_differentiates(name, times):
    """An energy whose gradient the model returns: the penalty is a third derivative or a fourth."""
    torch.manual_seed(0)
    layer, head = DIFFERENTIATED[name]().double(), nn.Linear(6, 2).double()

    def f(x):
        energy = torch.tanh(layer(x if isinstance(layer, nn.Linear) else x[:, None])).sum()
        for _ in range(times):
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
            energy = force.square().sum()
        return head(force)

    own = [p for p in (*layer.parameters(), *head.parameters()) if p.requires_grad]
    if not isinstance(layer, nn.Linear):
        _, y = run(f, draw(5, 6).requires_grad_())
        assert "AffineBackward" in names(y)
        assert directions(y) == ({True} if times == 1 else {True, False})
    assert_step_is_stock(f, draw(5, 6), own, exact=False)


def test_a_model_that_differentiates_without_a_graph():
    """A direction that is a constant to the penalty."""
    layer, head = nn.Conv1d(1, 1, 3, padding=1).double(), nn.Linear(6, 2).double()

    def f(x):
        (g,) = torch.autograd.grad(layer(x[:, None]).sin().sum(), x)
        return head(torch.tanh(layer((x + g.sign())[:, None])[:, 0]))

    assert_step_is_stock(f, draw(5, 6), [*layer.parameters(), *head.parameters()])


def fast_weights(layer, weight, create_graph):
    def f(x):
        inner = layer(x, weight).sin().mean()
        (g,) = torch.autograd.grad(inner, weight, create_graph=create_graph, retain_graph=True)
        return torch.tanh(layer(x, weight - g))

    return f


@pytest.mark.parametrize("create_graph", [True, False])
def test_a_model_that_differentiates_in_its_weights(create_graph):
    """Fast weights: one step of descent inside the model."""
    weight = draw(4, 1).requires_grad_()
    f = fast_weights(lambda x, w: F.linear(x[..., None], w).mean(-1), weight, create_graph)
    assert_step_is_stock(f, draw(5, 6), [weight])


@pytest.mark.parametrize("create_graph", [True, False])
def test_in_weights_of_lean_layers_it_is_an_error(create_graph):
    """While the model runs, a lean layer has gradients of its input alone."""
    weight = draw(4, 1, 1).requires_grad_()
    f = fast_weights(lambda x, w: F.conv1d(x[:, None], w).mean(1), weight, create_graph)
    with pytest.raises(RuntimeError, match="not have been used"):
        assert_step_is_stock(f, draw(5, 6), [weight])


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
    with Lean(Sweep(PULL), TRAINING, least=0):
        model(images())
        assert list(model.state_dict()) == state
        assert vars(model[0]) == before
    model(images())
    with pytest.raises(RuntimeError, match="size"), Lean(Sweep(PULL), TRAINING):
        model(torch.zeros(1, 1, 2, 9, dtype=torch.float64, requires_grad=True))
    model(images())
    assert seen == ["AffineBackward", "ConvolutionBackward0", "ConvolutionBackward0"]


# A layer of 128 entries for a sample, without parameters or with them.
SMALL = {
    "convolution": (nn.Conv2d(2, 2, 3, padding=1), "AffineBackward"),
    "strided convolution": (nn.Conv2d(2, 8, 3, 2, padding=1), "AffineBackward"),
    "batch-norm": (nn.BatchNorm2d(2).eval(), "AffineBackward"),
    "ReLU": (nn.ReLU(), "PiecewiseBackward"),
    "ReLU in place": (
        nn.Sequential(nn.Softsign(), nn.ReLU(inplace=True)),
        "PiecewiseInPlaceBackward",
    ),
    "pooling": (nn.MaxPool2d(2), "MaxPool2dBackward"),
    "padded pooling": (nn.MaxPool2d(3, 1, 1), "MaxPool2dBackward"),
}


def met(y):
    """Return which lean layers are in a graph."""
    known = ("AffineBackward", "PiecewiseBackward", "PiecewiseInPlaceBackward", "MaxPool2dBackward")
    return {short for short in known for name in names(y) if name.endswith(short)}


@pytest.mark.parametrize("name", SMALL)
def test_small_layers_are_stock(name):
    layer, lean = SMALL[name]
    x = draw(3, 2, 8, 8, dtype=torch.float32).requires_grad_()
    for least in (3 * 128 + 1, 1 << 18):
        mode, y = run(layer, x, least=least)
        assert not met(y)
        assert not mode.active
    mode, y = run(layer, x, least=3 * 128)
    assert met(y) == {lean}
    assert mode.active


def test_all_layers_from_the_first_large_one_on_are_lean():
    small, large = nn.Conv2d(2, 2, 3, padding=1).double(), nn.Conv2d(2, 4, 3, padding=1).double()
    last, x = nn.Conv2d(4, 1, 8).double(), draw(3, 2, 8, 8).requires_grad_()
    parameters = [p for layer in (small, large, last) for p in layer.parameters()]
    mode = Lean(Sweep(PULL), TRAINING, least=3 * 256)
    with mode:
        first = small(x).relu()
        assert not met(first)
        assert not mode.active
        second = large(first)
        assert mode.active
        third = last(second.relu())
        again = small(x)
    assert met(second) == {"AffineBackward"}
    assert second.grad_fn.name() == third.grad_fn.name() == again.grad_fn.name()
    assert met(third) == {"AffineBackward", "PiecewiseBackward"}
    want = torch.autograd.grad(last(large(small(x).relu()).relu()).square().sum(), parameters)
    with mode.sweep.of("collect"):
        got = torch.autograd.grad(third.square().sum(), parameters)
    torch.testing.assert_close(got, want)


def test_without_a_number_two_to_the_eighteenth_counts():
    x = torch.zeros(1, 1, 512, 512, requires_grad=True)
    for image, active in ((x, True), (x[..., 1:], False)):
        mode = Lean(Sweep(PULL), TRAINING)
        with mode:
            assert ("PiecewiseBackward" in names(torch.relu(image))) == active
        assert mode.active == active


def test_what_is_not_taken_does_not_count():
    """A large layer that runs as it is."""
    mode, x = Lean(Sweep(PULL), TRAINING, least=100), draw(3, 2, 8, 8).requires_grad_()
    linear = nn.Linear(8, 8).double()
    with mode:
        F.pad(torch.sin(linear(x)), (9, 9))
        assert not mode.active
        torch.relu(x)
    assert mode.active


def test_on_a_gpu_they_are_off_until_asked_for(monkeypatch):
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert tables.training(cpu) is TRAINING
    assert tables.training(gpu) is tables.STOCK
    monkeypatch.setattr(tables, "ON_GPU", "1")
    assert tables.training(gpu) is TRAINING
