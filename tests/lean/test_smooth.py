"""Smooth activations of a penalised step, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.lean.activations import ACTIVATIONS
from jacfast.ops import lives
from tests.lean.sweeps import assert_same, assert_step_is_stock, names, penalty, pull, run
from tests.nets import draw

pytestmark = pytest.mark.skipif(
    not lives.has("activation_first"), reason="PyTorch's are faster than references"
)
NAN, INF = float("nan"), float("inf")


def of(function, *arguments, **options):
    return lambda x: function(x, *arguments, **options)


# All functions of the table, with arguments by name, by position, and left out.
CALLS = {
    "F.gelu": F.gelu,
    "F.gelu, none": of(F.gelu, approximate="none"),
    "F.gelu, tanh": of(F.gelu, approximate="tanh"),
    "nn.GELU": nn.GELU(),
    "nn.GELU, tanh": nn.GELU("tanh"),
    "F.silu": F.silu,
    "F.silu by position": of(F.silu, False),
    "nn.SiLU": nn.SiLU(),
    "F.mish": F.mish,
    "nn.Mish": nn.Mish(),
    "F.hardswish": F.hardswish,
    "nn.Hardswish": nn.Hardswish(),
    "F.softplus": F.softplus,
    "F.softplus by position": of(F.softplus, 2, 1.5),
    "F.softplus by name": of(F.softplus, threshold=0.5),
    "F.softplus, beta below 0": of(F.softplus, -2),
    "nn.Softplus": nn.Softplus(3, 2),
    "F.logsigmoid": F.logsigmoid,
    "nn.LogSigmoid": nn.LogSigmoid(),
    "torch.sigmoid": torch.sigmoid,
    "Tensor.sigmoid": lambda x: x.sigmoid(),
    "F.sigmoid": F.sigmoid,
    "torch.special.expit": torch.special.expit,
    "nn.Sigmoid": nn.Sigmoid(),
    "torch.tanh": torch.tanh,
    "Tensor.tanh": lambda x: x.tanh(),
    "F.tanh": F.tanh,
    "nn.Tanh": nn.Tanh(),
    "F.elu": F.elu,
    "F.elu by position": of(F.elu, 0.5),
    "F.elu, alpha below 0": of(F.elu, alpha=-0.5),
    "nn.ELU": nn.ELU(2),
    "F.selu": F.selu,
    "torch.selu": torch.selu,
    "nn.SELU": nn.SELU(),
    "F.celu": F.celu,
    "torch.celu": of(torch.celu, 2),
    "nn.CELU": nn.CELU(0.5),
}
IN_PLACE = {
    "F.silu": of(F.silu, inplace=True),
    "F.silu by position": of(F.silu, True),
    "nn.SiLU": nn.SiLU(inplace=True),
    "F.mish": of(F.mish, inplace=True),
    "F.hardswish": of(F.hardswish, inplace=True),
    "nn.Hardswish": nn.Hardswish(inplace=True),
    "torch.sigmoid_": torch.sigmoid_,
    "Tensor.sigmoid_": lambda x: x.sigmoid_(),
    "torch.tanh_": torch.tanh_,
    "Tensor.tanh_": lambda x: x.tanh_(),
    "F.elu": of(F.elu, inplace=True),
    "F.elu_": of(F.elu_, 0.5),
    "nn.ELU": nn.ELU(0.5, inplace=True),
    "F.selu": of(F.selu, inplace=True),
    "torch.selu_": torch.selu_,
    "F.celu": of(F.celu, 2, True),
    "torch.celu_": of(torch.celu_, 2),
}


def train(f, x):
    return run(f, x)[1]


def is_lean(y):
    return any(name in ("SmoothBackward", "SmoothInPlaceBackward") for name in names(y))


def copied(call):
    """Return a function that changes a copy, and gives it, in place."""

    def f(x):
        h = 2 * x
        y = call(h)
        assert y is h
        return 3 * y

    return f


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "kind", ["contiguous", "channels last", "transposed", "expanded", "one entry"]
)
def test_values_and_both_derivatives_are_pytorchs(name, kind):
    x = 2 * draw(2, 3, 7, 8)
    x = {
        "contiguous": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3),
        "expanded": x[:1].expand(2, 3, 7, 8),
        "one entry": x[:1, :1, :1, :1],
    }[kind]
    f = CALLS[name]
    assert is_lean(train(f, x.requires_grad_()))
    assert_same(f, x.detach(), [])
    y, want = train(f, x), f(x)
    assert y.stride() == want.stride()


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name):
    f, x = copied(IN_PLACE[name]), 2 * draw(2, 3, 7, 8)
    assert is_lean(train(f, x.requires_grad_()))
    assert_same(f, x.detach(), [])
    assert_same(lambda x: f(x) + f(f(x)), x.detach(), [])


def test_every_function_of_the_table_is_tested():
    seen = set()
    for f in [*CALLS.values(), *map(copied, IN_PLACE.values())]:
        with Noting(seen):
            f(draw(2, 3).requires_grad_())
    pieces = {F.leaky_relu, F.leaky_relu_, F.hardtanh, F.hardtanh_, F.relu6}  # test_elementwise
    assert set(ACTIVATIONS) - pieces <= seen


class Noting(torch.overrides.TorchFunctionMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.add(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_other_dtypes(name, dtype):
    """Outputs to the bit; derivatives of half types within a rounding of the exact ones."""
    x = 2 * draw(3, 50, dtype=dtype)
    x.requires_grad_()
    y = train(CALLS[name], x)
    assert y.dtype == dtype
    assert torch.equal(y, CALLS[name](x))
    v, g = pull(y, x)
    second = torch.autograd.grad(penalty(g), [v, x])
    wide = x.detach().double().requires_grad_()
    exact = CALLS[name](wide)
    (first,) = torch.autograd.grad(exact, wide, v.double(), create_graph=True)
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 2e-6}[dtype]
    torch.testing.assert_close(g.double(), first, rtol=tolerance, atol=tolerance)
    if dtype == torch.float32:
        u = 2 * first + draw(*g.shape, dtype=torch.float32, seed=7)
        (of_x,) = torch.autograd.grad(first, wide, u.detach())
        torch.testing.assert_close(second[1].double(), of_x, rtol=1e-5, atol=1e-5)
    assert second[0].dtype == second[1].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_under_autocast_the_dtypes_are_pytorchs(dtype):
    for name, f in CALLS.items():
        x = draw(3, 5, dtype=dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y, want = train(f, x), f(x)
        assert y.dtype == want.dtype
        assert torch.equal(y, want)
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert is_lean(y), name
        assert g.dtype == x.dtype


@pytest.mark.parametrize("name", CALLS)
def test_no_nan_where_pytorch_has_none(name):
    x = torch.tensor([-INF, -1e30, -100.0, -3, 0, 3, 100, 1e30, INF]).double()
    found = []
    for way in (CALLS[name], lambda x: train(CALLS[name], x)):
        leaf = x.clone().requires_grad_()
        y = way(leaf)
        v = torch.ones_like(y).requires_grad_()
        (g,) = torch.autograd.grad(y, leaf, v, create_graph=True)
        found.append((g.detach(), *torch.autograd.grad(g, [leaf, v], torch.ones_like(g))))
    for want, got in zip(*found, strict=True):
        known = ~want.isnan()
        torch.testing.assert_close(got[known], want[known])
        assert not got.isnan().any()


def test_what_is_not_lean():
    x = draw(4, 5).requires_grad_()
    for f in (F.gelu, F.silu, torch.tanh):
        assert train(f, x.detach()).grad_fn is None
        assert not is_lean(train(f, x[:0]))
        assert not is_lean(run(f, x, least=21)[1])
        assert is_lean(run(f, x, least=20)[1])


@pytest.mark.parametrize("name", IN_PLACE)
def test_views_and_leaves_in_place_are_pytorchs(name):
    def f(x):
        h = 2 * x
        IN_PLACE[name](h[:, 1:])
        return h

    assert_same(f, draw(5, 4), [])
    assert not is_lean(train(f, draw(5, 4).requires_grad_()))
    with pytest.raises(RuntimeError, match="leaf Variable"):
        train(IN_PLACE[name], draw(5, 4).requires_grad_())


@pytest.mark.parametrize("name", ["F.gelu", "torch.tanh", "F.silu"])
def test_what_is_saved_must_not_change(name):
    """The input, or the output of those that are read there: as in PyTorch an error."""
    h = 2 * draw(5, 4).requires_grad_()
    y = train(CALLS[name], h)
    (y if name == "torch.tanh" else h).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("frozen", ["x", "g"])
def test_one_of_the_two_gradients(frozen):
    """Of a constant cotangent, or of an input on which nothing depends."""
    x, v = draw(4, 5).requires_grad_(), draw(4, 5, seed=1).requires_grad_(frozen == "x")
    found = []
    for way in (F.gelu, lambda x: train(F.gelu, x)):
        (g,) = torch.autograd.grad(way(x), x, v, create_graph=True)
        found.append(torch.autograd.grad(g.sin().sum(), v if frozen == "x" else x))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", CALLS)
def test_third_derivatives(name):
    """A model that differentiates itself: the penalty's gradient is a third derivative."""
    f = CALLS[name]

    def model(x):
        (force,) = torch.autograd.grad(f(x).sin().sum(), x, create_graph=True)
        return force * x

    layer = nn.Linear(6, 6).double()
    assert_step_is_stock(lambda x: model(layer(x)), draw(5, 6), list(layer.parameters()), False)


def test_a_weight_that_is_an_activation_of_a_parameter():
    weight = draw(6, 6).requires_grad_()
    assert_step_is_stock(lambda x: F.gelu(F.linear(x, torch.tanh(weight))), draw(5, 6), [weight])


def test_without_the_extension_they_are_pytorchs(monkeypatch):
    monkeypatch.setattr(lives, "IMPL", "reference")
    assert not is_lean(train(F.gelu, draw(4, 5).requires_grad_()))


def test_transforms_are_left_alone():
    x = draw(4, 5).requires_grad_()
    rows = torch.func.vmap(torch.func.grad(lambda r: F.gelu(r).sum()))
    torch.testing.assert_close(train(rows, x), rows(x))
