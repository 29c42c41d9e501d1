"""Every activation and common layer has a second derivative, in both ways of penalising."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jacfast import Frobenius, InputGradient, forward_with_penalty, frobenius_penalty
from jacfast.evaluation import decision_hessian
from jacfast.lean import mode
from tests.functions import Cube
from tests.step.steps import fast, gradient, plain


def hard_sigmoid(x: Tensor) -> Tensor:
    return (x / 6 + 0.5).clamp(0, 1)


class Applied(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def in_place(function):
    return lambda x: function(x * 1)


def padded(function):
    """Return a function of x and of zeros beside it, [N, 2, D], that hang from x as well."""
    return lambda x: x + function(torch.stack([x, 0 * x], 1)).sum(1, keepdim=True).flatten(1)[:, :1]


ACTIVATIONS = {
    "celu": F.celu,
    "elu": F.elu,
    "gelu": F.gelu,
    "glu": lambda x: F.glu(x.repeat(1, 2)),
    "hardshrink": F.hardshrink,
    "hardsigmoid": F.hardsigmoid,
    "hardsigmoid, in place": in_place(lambda x: F.hardsigmoid(x, inplace=True)),
    "nn.Hardsigmoid": nn.Hardsigmoid(),
    "nn.Hardsigmoid, in place": in_place(nn.Hardsigmoid(inplace=True)),
    "checkpointed": lambda x: checkpoint(F.hardsigmoid, x, use_reentrant=False),
    "hardswish": F.hardswish,
    "hardswish, in place": in_place(lambda x: F.hardswish(x, inplace=True)),
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "logsigmoid": F.logsigmoid,
    "mish": F.mish,
    "prelu": nn.PReLU(6).double(),
    "relu": F.relu,
    "relu6": F.relu6,
    "rrelu": lambda x: F.rrelu(x, training=False),
    "selu": F.selu,
    "silu": F.silu,
    "softplus": F.softplus,
    "softshrink": F.softshrink,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 2.0),
    "max_pool1d": lambda x: F.max_pool1d(x[:, None], 2)[:, 0],
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x[:, None], 4)[:, 0],
    "interpolate": lambda x: F.interpolate(x[:, None], 9, mode="linear")[:, 0],
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "normalize": padded(lambda x: F.normalize(x, dim=-1)),
    "normalize, checkpointed": padded(
        lambda x: checkpoint(F.normalize, x, dim=-1, use_reentrant=False)
    ),
    "cosine_similarity": padded(lambda x: F.cosine_similarity(x, x[:, :1], dim=2)),
    "pairwise_distance": padded(lambda x: F.pairwise_distance(x, -x, eps=0.0)),
    "norm": padded(lambda x: x.norm(dim=(1, -1))[:, None]),
    "norm, dimensions in any order": padded(lambda x: x.norm(dim=(-1, 1))[:, None]),
    "norm, dimensions from the end": padded(lambda x: x.norm(dim=(-2, -1))[:, None]),
    "3-norm": lambda x: x + torch.linalg.vector_norm(x, 3, dim=1, keepdim=True),
    "norm of all": padded(lambda x: x[:, 1] + x[:, 1].norm()),
}


def net(function) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network of which half of the units are beyond the kinks of a hard sigmoid."""
    torch.manual_seed(1)
    layers = [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), Applied(function), nn.LazyLinear(3)]
    model = nn.Sequential(*layers).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    model[2].weight.data *= 8
    model(x)
    return model, x, torch.arange(5) % 3


def value_at(model: nn.Module, x: Tensor, y: Tensor, penalty, vector: Tensor) -> float:
    nn.utils.vector_to_parameters(vector, model.parameters())
    rows = torch.stack([_of_first_order(model, x, k) for k in range(3)], 1)
    if isinstance(penalty, Frobenius):
        return float(rows.square().sum() / len(x))
    p = model(x).softmax(1) - F.one_hot(y, 3)
    return float((p.detach()[:, :, None] * rows).sum(1).square().sum() / len(x))


def _of_first_order(model: nn.Module, x: Tensor, k: int) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, k].sum(), leaf)[0]


@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_against_differences_of_the_gradient(name, penalty):
    model, x, y = net(ACTIVATIONS[name])
    found = []
    for way in (plain, fast):
        _, value = way(model, x, y, penalty)
        found.append(gradient(value, model))
    torch.testing.assert_close(*found)
    parameters = nn.utils.parameters_to_vector(model.parameters()).detach()
    twin, h = copy.deepcopy(model), 1e-6
    for seed in range(3):
        torch.manual_seed(seed)
        t = torch.randn_like(parameters)
        ends = [value_at(twin, x, y, penalty, parameters + sign * h * t) for sign in (1, -1)]
        want = (ends[0] - ends[1]) / (2 * h)
        assert float(found[0] @ t) == pytest.approx(want, rel=1e-5, abs=1e-7)


def of_energy(function):
    """Return the gradient of an energy behind a function, as models return that take forces."""
    return lambda x: torch.autograd.grad(function(x).sin().sum(), x, create_graph=True)[0]


BESIDE = {
    "a Function": Cube.apply,
    "hardsigmoid": F.hardsigmoid,
    "attention": lambda c: F.scaled_dot_product_attention(c, c, c),
    "norm": lambda c: F.normalize(c, dim=-1),
    "batch norm of one row": lambda c: F.batch_norm(c, torch.zeros(4).double(), c.new_ones(4)),
    "layer norm, differentiated": of_energy(lambda c: F.layer_norm(c, (6,))),
    "batch norm, differentiated": of_energy(
        lambda c: F.batch_norm(c, None, None, None, None, True)
    ),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_added_to_the_logits_may_have_been_differentiated_and_freed(name):
    """No way from the logits to x leads through it, so its saved tensors are not asked for."""
    c = torch.randn(3, 4, 1, 6, dtype=torch.float64).requires_grad_()
    beside = BESIDE[name](c).flatten(1)[:, :3]
    beside.sum().backward()
    model = nn.Sequential(nn.Linear(5, 3), nn.Tanh()).double()
    x = torch.randn(3, 5, dtype=torch.float64).requires_grad_()
    found = [
        gradient(Frobenius("exact")(logits, x), model) for logits in (model(x) + beside, model(x))
    ]
    torch.testing.assert_close(*found)


class Gate(torch.autograd.Function):
    """x, whatever its gate, for which it returns no gradient."""

    @staticmethod
    def forward(ctx, x, gate):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g, None


@pytest.mark.parametrize("name", BESIDE)
def test_what_gets_no_gradient_has_no_part(name):
    layer = nn.Linear(5, 24).double()
    model = nn.Sequential(nn.Linear(5, 3), nn.Tanh()).double()
    x = torch.randn(3, 5, dtype=torch.float64).requires_grad_()
    gated = Gate.apply(model(x), BESIDE[name](layer(x).view(3, 4, 1, 6)))
    found = []
    for logits in (gated, model(x)):
        value = frobenius_penalty(logits, x, "exact", batch_norm="coupled")
        found.append(gradient(value, model))
    torch.testing.assert_close(*found)


def test_a_norm_in_a_wider_type():
    """Summed in float64, of float32, one row of zeros."""
    torch.manual_seed(0)
    layer, found = nn.Linear(4, 6), []
    for dtype in (torch.float32, torch.float64):
        x = torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4).requires_grad_()
        h = layer.to(dtype)(x)
        h = torch.stack([h, 0 * h], 1)
        z = h / torch.linalg.vector_norm(h, dim=2, keepdim=True, dtype=torch.float64).clamp_min(0.1)
        found.append(gradient(Frobenius("exact")(z.to(dtype).sum(1), x), layer))
    torch.testing.assert_close(found[0].double(), found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("half", [torch.float32, torch.bfloat16])
def test_hard_sigmoid_is_what_it_is_written_out(n, half):
    model, x, _ = net(F.hardsigmoid)
    model, x = model.to(half), x.to(half).requires_grad_()
    twin = copy.deepcopy(model)
    twin[3] = Applied(hard_sigmoid)
    generator = torch.Generator()
    got, want = (
        gradient(Frobenius(n)(m(x), x, generator=generator.manual_seed(0)), m)
        for m in (model, twin)
    )
    eps = torch.finfo(half).eps
    torch.testing.assert_close(got, want, rtol=32 * eps, atol=32 * eps)


def test_hard_sigmoid_has_the_slope_of_pytorch_at_its_kinks():
    """In half types many inputs are exactly there."""
    x = torch.tensor([[-3.0, 3.0, 2.5]]).requires_grad_()
    z = F.hardsigmoid(x)
    (rows,) = torch.autograd.grad(z.sum(), x, retain_graph=True)
    assert float(Frobenius("exact")(z, x)) == float(rows.square().sum())


def test_a_hessian_through_a_hard_sigmoid():
    model, x, y = net(F.hardsigmoid)
    twin = copy.deepcopy(model)
    twin[3] = Applied(hard_sigmoid)
    torch.testing.assert_close(decision_hessian(model, x, y), decision_hessian(twin, x, y))


def test_hard_sigmoid_keeps_the_graphs_of_a_penalty_apart(monkeypatch):
    """Its gradient is collected at once, as for any large piecewise linear network."""
    monkeypatch.setattr(mode, "LEAST", 0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Hardsigmoid(), nn.Linear(6, 3))
    logits, _ = forward_with_penalty(model, torch.randn(5, 4))
    pending = logits.grad_fn.pending
    assert any(one is not None for one in pending.sums.pop(model.parameters()))
    assert not pending.parts[0].totals
