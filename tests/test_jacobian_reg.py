"""JacobianReg: scale, argument order and vectors of the class by Hoffman, Roberts & Yaida."""

import copy

import pytest
import torch
from torch import nn

from jacfast import JacobianReg, cotangents, frobenius_penalty
from tests.nets import NETS, RTOL, brute_force, build, draw, relative_error


@pytest.mark.parametrize("name", NETS)
def test_minus_one_is_half_the_frobenius_norm(name):
    model, x = build(name)
    want, gradients = brute_force(copy.deepcopy(model), x)
    x.requires_grad_()
    value = JacobianReg(n=-1)(x, model(x))
    assert relative_error(value, want / 2) < RTOL[x.dtype]
    first, parameter = next(model.named_parameters())
    (got,) = torch.autograd.grad(value, parameter)
    assert relative_error(got, gradients[first] / 2) < RTOL[x.dtype]


@pytest.mark.parametrize("n", [1, 3, 8])
def test_formula_with_its_own_vectors(n, monkeypatch):
    """1/2 sum_k C ||d(y.u_k)/dx||^2 / (n B), with independent unit vectors; n may exceed C = 5."""
    model, x = build("cnn")
    u = torch.nn.functional.normalize(draw(n, len(x), 5), dim=2)
    monkeypatch.setattr(cotangents, "unit_sphere", lambda *_: u * (5 / n) ** 0.5)
    x.requires_grad_()
    y, want = model(x), 0
    for one in u:
        (g,) = torch.autograd.grad((y * one).sum(), x, create_graph=True)
        want = want + 5 * g.square().sum() / (n * len(x)) / 2
    value = JacobianReg(n)(x, y)
    torch.testing.assert_close(value, want)
    params = list(model.parameters())
    got = torch.autograd.grad(value, params, retain_graph=True, materialize_grads=True)
    by_hand = torch.autograd.grad(want, params, materialize_grads=True)
    torch.testing.assert_close(got, by_hand, rtol=1e-10, atol=1e-12)


def test_seed_repeats_and_calls_differ():
    model, x = build("mlp")
    x.requires_grad_()
    y, reg, values = model(x), JacobianReg(), []
    for _ in range(2):
        torch.manual_seed(0)
        values.append((float(reg(x, y).detach()), float(reg(x, y).detach())))
    assert values[0] == values[1]
    assert values[0][0] != values[0][1]


@pytest.mark.parametrize("n", [1, 4, -1])
def test_one_class_is_exact(n):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = draw(5, 6)
    want, _ = brute_force(copy.deepcopy(model), x)
    x.requires_grad_()
    assert relative_error(JacobianReg(n)(x, model(x)), want / 2) < RTOL[x.dtype]


def test_argument_order_is_x_then_y():
    model, x = build("mlp")
    x.requires_grad_()
    y = model(x)
    assert torch.equal(JacobianReg(-1)(x=x, y=y), frobenius_penalty(y, x, "exact") / 2)
    with pytest.raises(ValueError, match="must be part of the graph"):
        JacobianReg(-1)(y, x)


@pytest.mark.parametrize("n", [0, -2])
def test_n_out_of_range(n):
    with pytest.raises(ValueError, match=f"n must be >= 1, or -1 for the exact penalty; got {n}"):
        JacobianReg(n)


@pytest.mark.parametrize("n", [True, 1.0, "exact"])
def test_n_of_a_wrong_type(n):
    with pytest.raises(
        TypeError, match=f"n must be an integer, or -1 for the exact penalty; got {n!r}"
    ):
        JacobianReg(n)


def test_has_no_state():
    assert list(JacobianReg().parameters()) == []
    assert JacobianReg().n == 1


def test_inputs_are_checked():
    model, x = build("mlp")
    with pytest.raises(ValueError, match="x must require grad"):
        JacobianReg()(x, model(x))
