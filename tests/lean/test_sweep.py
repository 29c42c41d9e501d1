"""Which sweep runs through lean layers, and what those of others find."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.lean import COLLECT, PULL, Sweep
from jacfast.lean.sweep import FOREIGN
from tests.lean.sweeps import directions, penalty, pull, run
from tests.nets import draw


def test_contexts():
    """The outermost gives back what was, an inner one what is; after errors as well."""
    sweep = Sweep()
    assert sweep.kind == FOREIGN
    with sweep.of(PULL):
        for _ in range(2):
            with sweep.of(COLLECT):
                assert sweep.kind == COLLECT
                sweep.check_own()
            assert sweep.kind == PULL
            sweep.check_own()
    assert sweep.kind == FOREIGN
    with pytest.raises(ZeroDivisionError), sweep.of(COLLECT):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="auxiliary"):
        sweep.check_own()
    assert Sweep(PULL).kind == PULL


def norm():
    layer = nn.BatchNorm1d(2).eval()
    nn.init.uniform_(layer.running_var, 0.5, 2.0)
    nn.init.uniform_(layer.weight, 0.5, 2.0)
    return layer


LAYERS = {
    "convolution": lambda: nn.Conv1d(2, 3, 2),
    "convolution by blocks": lambda: nn.Sequential(nn.Unflatten(2, (2, 3)), nn.Conv2d(2, 3, 2)),
    "batch-norm": norm,
    "several": lambda: nn.Sequential(nn.Conv1d(2, 2, 2), norm(), nn.ReLU(), nn.Conv1d(2, 3, 2)),
}


def case_of(name):
    torch.manual_seed(0)
    return LAYERS[name]().double(), draw(5, 2, 6).requires_grad_()


def compare(got, want):
    torch.testing.assert_close(got, want)
    assert all(gradient.any() for gradient in want)


@pytest.mark.parametrize("name", LAYERS)
def test_first_derivatives_of_others_are_right(name):
    """Of inputs and parameters; also after the library's own, and by backward."""
    layer, x = case_of(name)
    inputs = [x, *layer.parameters()]
    want = torch.autograd.grad(layer(x).sin().sum(), inputs)
    mode, y = run(layer, x, x)
    compare(torch.autograd.grad(y.sin().sum(), inputs, retain_graph=True), want)
    with mode.sweep.of(PULL):
        pull(y, x)
    compare(torch.autograd.grad(y.sin().sum(), inputs, retain_graph=True), want)
    y.sin().sum().backward()
    compare(tuple(one.grad for one in inputs), want)
    assert mode.sweep.kind == FOREIGN


@pytest.mark.parametrize("name", LAYERS)
def test_first_derivatives_of_a_cotangent_are_right(name):
    """Of a function of J^T v, that the library's own sweep has made."""
    layer, x = case_of(name)
    weights = [p for p in layer.parameters() if p.dim() > 1 or name == "batch-norm"]

    def derivatives(v, g):
        found = torch.autograd.grad(penalty(g), [v, *weights], allow_unused=True)
        return [torch.zeros(()) if d is None or not d.any() else d for d in found]

    mode, y = run(layer, x, x)
    with mode.sweep.of(PULL):
        v, g = pull(y, x)
    got, want = derivatives(v, g), derivatives(*pull(layer(x), x))
    assert any(d.any() for d in want[1:])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives_of_others_are_refused(name):
    """In the inputs alone as well: nobody knows what is made of them."""
    layer, x = case_of(name)
    _, y = run(layer, x)
    for inputs in ([x], list(layer.parameters())[-1:], [x, *layer.parameters()]):
        with pytest.raises(RuntimeError, match=r"auxiliary.*add penalty\(logits, x\) to the loss"):
            torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)


@pytest.mark.parametrize("name", LAYERS)
def test_higher_derivatives_of_others_are_refused(name):
    """Of a cotangent, and of a tangent that a model makes for itself."""
    layer, x = case_of(name)
    mode, y = run(layer, x)
    u = draw(*x.shape, seed=2).requires_grad_()
    with mode.sweep.of(PULL):
        v, g = pull(y, x)
        (t,) = torch.autograd.grad(g, v, u, create_graph=True)
    assert directions(g) == {True}
    assert False in directions(t)
    for outputs, inputs in ((penalty(g), v), (t.sin().sum(), u)):
        with pytest.raises(RuntimeError, match="auxiliary"):
            torch.autograd.grad(outputs, inputs, create_graph=True)


def test_layers_without_parameters_have_all_derivatives():
    """Theirs are lost to nobody."""
    x = draw(2, 3, 6, 6).requires_grad_()

    def f(x):
        return F.max_pool2d(torch.relu((2 * x).exp() - 1), 2)

    got = []
    for y in (run(f, x)[1], f(x)):
        (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        got.append([g, *torch.autograd.grad(penalty(g), x)])
    torch.testing.assert_close(got[0], got[1])


@pytest.mark.parametrize("name", LAYERS)
def test_a_sweep_that_pulls_makes_no_gradients_of_parameters(name):
    layer, x = case_of(name)
    mode, y = run(layer, x)
    parameters = list(layer.parameters())
    with mode.sweep.of(PULL):
        v, g = pull(y, x)
        _, *found = torch.autograd.grad(penalty(g), [v, *parameters], allow_unused=True)
        found += torch.autograd.grad(y.sum(), parameters, allow_unused=True)
    assert all(gradient is None for gradient in found)
