"""Penalties where there is little to differentiate, or few samples or outputs."""

import pytest
import torch
from torch import Tensor, nn

from jacfast import CrossLipschitz, DecisionFunction, Frobenius, InputGradient, Spectral
from tests.nets import RTOL, draw, relative_error
from tests.penalties.formulas import EXACT, PENALTIES, by_hand, labelled, seeded, weights


def gradients(value: Tensor, model: nn.Module, x: Tensor) -> list[Tensor]:
    inputs = [x, *model.parameters()]
    return list(torch.autograd.grad(value, inputs, materialize_grads=True))


@pytest.mark.parametrize("dead", ["last layer", "hidden layer"])
@pytest.mark.parametrize("name", PENALTIES)
def test_a_zero_jacobian(name, dead):
    model, x, y, _ = labelled("mlp")
    if dead == "last layer":
        model[4].weight.data.zero_()
    else:
        model[2].bias.data.fill_(-100)  # no ReLU passes anything on
    value = PENALTIES[name](model(x), x, y, generator=seeded())
    assert value.item() == pytest.approx(getattr(PENALTIES[name], "target", 0) ** 2, rel=1e-12)
    assert all(bool((g == 0).all()) for g in gradients(value, model, x))


@pytest.mark.parametrize("name", [*EXACT, "spectral"])
def test_one_zero_jacobian_among_others(name):
    """The gradient is that of the others, as a share of all samples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 5)).double()
    model[0].weight.data.abs_()
    x, y = draw(3, 6).abs(), torch.arange(3)
    x[0] *= -1  # all of its ReLUs are off
    x, others = x.requires_grad_(), x[1:].clone().requires_grad_()
    penalty = Spectral(100) if name == "spectral" else PENALTIES[name]
    got = gradients(penalty(model(x), x, y, generator=seeded()), model, x)
    want = gradients(penalty(model(others), others, y[1:], generator=seeded()), model, others)
    assert bool((got[0][0] == 0).all())
    share = 1.0 if name.startswith("root") else 2 / 3
    torch.testing.assert_close(got[1:], [share * g for g in want[1:]])
    assert want[1].norm() > 0


def test_a_parameter_without_entries():
    """A weight of two parts, of which one is empty: of W, the penalty's gradient is 2 W."""
    full, empty = nn.Parameter(draw(5, 6)), nn.Parameter(draw(0, 6))
    x = draw(3, 6, seed=1).requires_grad_()
    Frobenius("exact")(x @ torch.cat([full, empty]).T, x).backward()
    torch.testing.assert_close(full.grad, 2 * full.detach())


def two_outputs() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()


@pytest.mark.parametrize("net", ["mlp", "grid", "two outputs"])
@pytest.mark.parametrize("name", EXACT)
def test_a_batch_of_one(name, net):
    """Also with K = 2, and with logits [1, 4, 3]."""
    if net == "two outputs":
        model, x, k = two_outputs(), draw(1, 6).requires_grad_(), 2
    else:
        model, x, _, k = labelled(net, samples=1)
    y = torch.tensor([k - 1])
    value = EXACT[name][0](k)(model(x), x, y, generator=seeded())
    want, by_name = by_hand(name, model, x, y)
    assert relative_error(value, want) < RTOL[x.dtype]
    first = next(iter(by_name))
    (got,) = torch.autograd.grad(value, [dict(model.named_parameters())[first]])
    assert relative_error(got, by_name[first]) < RTOL[x.dtype]


def test_two_outputs_have_one_difference():
    """The only direction orthogonal to 1 is drawn, so that n = 1 is exact."""
    model, x = two_outputs(), draw(3, 6).requires_grad_()
    (g,) = torch.autograd.grad((model(x)[:, 0] - model(x)[:, 1]).sum(), x)
    value = CrossLipschitz(1)(model(x), x)
    torch.testing.assert_close(value, 2 * g.square().sum(dim=1).mean())


def test_one_output():
    model, x = nn.Linear(6, 1).double(), draw(3, 6).requires_grad_()
    logits, y = model(x), torch.zeros(3, dtype=torch.int64)
    square = model.weight.square().sum()
    torch.testing.assert_close(Frobenius()(logits, x), square)
    torch.testing.assert_close(Spectral()(logits, x), square)
    assert InputGradient()(logits, x, y) == 0
    assert CrossLipschitz("exact")(logits, x) == 0
    with pytest.raises(ValueError, match=r"n must be in 1 \.\. K - 1 = 0"):
        CrossLipschitz(1)(logits, x)


@pytest.mark.parametrize("n", [1, "exact"])
@pytest.mark.parametrize("w", [None, weights(5)])
def test_the_square_of_the_root_is_the_sum(n, w):
    model, x, _, _ = labelled("mlp")
    root = Frobenius(n, root=True, weights=w)(model(x), x, generator=seeded())
    mean = Frobenius(n, weights=w)(model(x), x, generator=seeded())
    torch.testing.assert_close(root.square() / len(x), mean)


def test_weights_of_one_and_of_another_dtype():
    model, x, _, _ = labelled("mlp")
    plain = Frobenius(2)(model(x), x, generator=seeded())
    ones = Frobenius(2, weights=torch.ones(5))(model(x), x, generator=seeded())
    assert torch.equal(plain, ones)


@pytest.mark.parametrize("n", [1, 5, "exact"])
def test_the_derivative_in_a_learned_weight_is_0_at_0(n):
    model, x, _, _ = labelled("mlp")
    found = []
    for first in (0.0, 1e-6):
        w = weights(5).double().index_fill(0, torch.tensor(0), first).requires_grad_()
        value = Frobenius(n, weights=w)(model(x), x, generator=seeded())
        found.append(torch.autograd.grad(value, [w, *model.parameters()], materialize_grads=True))
    (of_zero, *zero), (of_few, *few) = found
    assert of_zero[0] == 0
    torch.testing.assert_close(of_zero[1:], of_few[1:], rtol=1e-2, atol=0)
    for one, other in zip(zero, few, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-2 * float(other.abs().max()))


def test_a_tie_of_runners_up_is_the_lowest_class():
    """Of logits that are all 0, the gradient is that of z_y - z_r, r = 0, or 1 for y = 0."""
    weight = draw(5, 6)
    for label, runner_up in ((0, 1), (1, 0), (4, 0)):
        x = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
        value = DecisionFunction("l1")(x @ weight.T, x, torch.tensor([label]))
        torch.testing.assert_close(value, (weight[label] - weight[runner_up]).abs().sum())
