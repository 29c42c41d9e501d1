"""Normalisation by rows in a penalised step, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.lean import COLLECT, PULL
from jacfast.lean.norms import NORMS
from jacfast.ops import lives
from tests.lean.sweeps import (
    assert_same,
    assert_step_is_stock,
    names,
    penalty,
    pull,
    run,
)
from tests.nets import draw
from tests.testing import DTYPES

pytestmark = pytest.mark.skipif(
    not lives.has("norm_first"), reason="PyTorch's are faster than references"
)
C = [draw(6, seed=k).requires_grad_() for k in (21, 22)]
W = [draw(5, seed=k).requires_grad_() for k in (23, 24)]
HW = [draw(4, 5, seed=k).requires_grad_() for k in (25, 26)]
STATS = None, None, True, 0.1, 1e-5, True


def module(layer):
    torch.manual_seed(0)
    for p in layer.double().parameters():
        nn.init.normal_(p)
    return layer, list(layer.parameters())


# Of x [N, 6, 4, 5], with the parameters of each: all functions of the table, arguments by name, by
# position, and left out.
CALLS = {
    "F.layer_norm": (lambda x: F.layer_norm(x, (5,)), []),
    "F.layer_norm, affine": (lambda x: F.layer_norm(x, (5,), *W, 0.1), W),
    "F.layer_norm, weight": (lambda x: F.layer_norm(x, [5], weight=W[0]), W[:1]),
    "F.layer_norm, bias": (lambda x: F.layer_norm(x, (4, 5), bias=HW[1], eps=0.01), HW[1:]),
    "F.layer_norm of two": (lambda x: F.layer_norm(x, (4, 5), *HW), HW),
    "F.layer_norm of all": (lambda x: F.layer_norm(x, x.shape), []),
    "F.layer_norm by name": (lambda x: F.layer_norm(input=x, normalized_shape=[5]), []),
    "torch.layer_norm": (lambda x: torch.layer_norm(x, (5,), *W, 0.1, False), W),
    "nn.LayerNorm": module(nn.LayerNorm((4, 5))),
    "nn.LayerNorm, not affine": module(nn.LayerNorm(5, elementwise_affine=False)),
    "nn.LayerNorm, no bias": module(nn.LayerNorm(5, bias=False)),
    "permuted": (
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (6,), *C).permute(0, 3, 1, 2),
        C,
    ),
    "F.rms_norm": (lambda x: F.rms_norm(x, (5,)), []),
    "F.rms_norm, weight": (lambda x: F.rms_norm(x, (4, 5), HW[0], 0.1), HW[:1]),
    "torch.rms_norm": (lambda x: torch.rms_norm(x, (5,), weight=W[0], eps=0.1), W[:1]),
    "nn.RMSNorm": module(nn.RMSNorm(5)),
    "F.group_norm": (lambda x: F.group_norm(x, 3), []),
    "F.group_norm, affine": (lambda x: F.group_norm(x, 2, *C, 0.1), C),
    "F.group_norm of [N, C]": (lambda x: F.group_norm(x.flatten(2).transpose(1, 2)[0], 2), []),
    "torch.group_norm": (lambda x: torch.group_norm(x, 3, *C, 0.1, True), C),
    "nn.GroupNorm": module(nn.GroupNorm(2, 6)),
    "F.instance_norm": (F.instance_norm, []),
    "F.instance_norm, affine": (lambda x: F.instance_norm(x, weight=C[0], bias=C[1], eps=0.1), C),
    "torch.instance_norm": (lambda x: torch.instance_norm(x, *C, *STATS), C),
    "nn.InstanceNorm2d": module(nn.InstanceNorm2d(6, affine=True)),
    "nn.InstanceNorm1d": (lambda x: nn.InstanceNorm1d(6)(x.flatten(2)), []),
}


def by_hand(x, shape, eps, centred=True):
    """Normalise the rows of x, which has `shape` then, by differentiable operations."""
    rows = x.reshape(shape)
    rows = rows - rows.mean(-1, keepdim=True) if centred else rows
    return (rows * (rows.square().mean(-1, keepdim=True) + eps).rsqrt()).view_as(x)


def train(f, x):
    return run(f, x)[1]


def is_lean(y):
    return "NormalisedBackward" in names(y)


def pulled(f, x):
    """Return f(x) in the mode, and its own sweep's v and g."""
    mode, y = run(f, x)
    with mode.sweep.of(PULL):
        return y, *pull(y, x)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", ["contiguous", "channels last", "transposed", "expanded"])
def test_values_and_both_derivatives_are_pytorchs(name, kind):
    x, scale = draw(3, 6, 4, 5), draw(1).requires_grad_()
    x = {
        "contiguous": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(0, 3).contiguous().transpose(0, 3),
        "expanded": x[:1].expand(3, 6, 4, 5),
    }[kind]
    f, own = CALLS[name]
    y, want = train(f, x.requires_grad_()), f(x)
    assert is_lean(y)
    assert y.stride() == want.stride()
    # PyTorch's own group-norm needs somebody who wants the gradient of x (it crashes in 2.13)
    assert_same(lambda x: f(scale * x), x.detach(), [*own, scale])


def test_every_function_of_the_table_is_tested():
    seen = set()

    class Noting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.add(function)
            return function(*args, **(kwargs or {}))

    for f, _ in CALLS.values():
        with Noting():
            f(draw(3, 6, 4, 5).requires_grad_())
    assert set(NORMS) <= seen


@pytest.mark.parametrize("name", CALLS)
def test_steps(name):
    f, own = CALLS[name]
    scale, head = draw(6, 4, 5, seed=8).requires_grad_(), nn.Linear(20, 3).double()

    def model(x):
        h = f(x * scale)
        return head(torch.tanh(h.reshape(-1, 20)))

    assert_step_is_stock(model, draw(3, 6, 4, 5), [*own, scale, *head.parameters()])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_other_dtypes(name, dtype):
    """Outputs to the bit; derivatives of half types as near to the exact ones as they can be."""
    f, own = CALLS[name]
    x = (draw(3, 6, 4, 5) + 3).to(dtype).requires_grad_()
    wide = x.detach().double().requires_grad_()
    try:
        own_data = [p.data for p in own]
        for p in own:
            p.data = p.data.to(dtype)
        y, v, g = pulled(f, x)
        assert y.dtype == dtype
        assert torch.equal(y, f(x))
        second = torch.autograd.grad(penalty(g), [v, x])
        for p in own:
            p.data = p.data.double()
        (first,) = torch.autograd.grad(f(wide), wide, v.double(), create_graph=True)
        u = 2 * g.detach().double() + draw(*g.shape, dtype=dtype, seed=7).double()
        exact = torch.autograd.grad(first, wide, u)
    finally:
        for p, data in zip(own, own_data, strict=True):
            p.data = data
    least = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2e-6}[dtype]
    for got, want in ((g, first), (second[1], exact[0])):
        assert got.dtype == dtype
        error = (got.double() - want).abs().max() / want.abs().max()
        assert float(error.detach()) < least
    assert second[0].dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_eps_that_is_not_given(dtype):
    """That of RMSNorm is of the dtype that PyTorch computes in, not of x: it shows on small x."""
    x = (0.02 * draw(4, 64)).to(dtype).requires_grad_()
    y, v, g = pulled(lambda x: F.rms_norm(x, (64,)), x)
    wide = x.detach().double().requires_grad_()
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    exact = by_hand(wide, (4, 64), eps, centred=False)
    (first,) = torch.autograd.grad(exact, wide, v.detach().double())
    for got, want in ((y, exact), (g, first)):
        error = (got.detach().double() - want.detach()).norm() / want.detach().norm()
        assert float(error) < 2 * torch.finfo(dtype).eps


def test_weights_of_float32_for_half_inputs():
    x = draw(3, 6, 8).bfloat16().requires_grad_()
    weight, bias = (draw(8, seed=k).float().requires_grad_() for k in (1, 2))
    mode, y = run(lambda x: F.layer_norm(x, (8,), weight, bias), x)
    assert is_lean(y)
    assert y.dtype == torch.bfloat16
    with mode.sweep.of(PULL):
        _, g = pull(y, x)
    with mode.sweep.of(COLLECT):
        found = torch.autograd.grad(penalty(g) + y.float().sum(), [weight, bias])
    assert [t.dtype for t in found] == [torch.float32] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_under_autocast_the_dtypes_are_pytorchs(dtype):
    for name, (f, own) in CALLS.items():
        if own:
            continue
        x = draw(3, 6, 4, 5, dtype=dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            (y, _, g), want = pulled(f, x), f(x)
        assert y.dtype == want.dtype
        assert torch.equal(y, want)
        assert is_lean(y), name
        assert g.dtype == x.dtype


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_parameters(frozen):
    own = [draw(5, seed=k).requires_grad_(k != frozen) for k in (0, 1)]
    free = [p for p in own if p.requires_grad]
    assert_same(lambda x: F.layer_norm(x, (5,), *own), draw(3, 5), free)


def test_running_statistics_of_instance_norm_change_once():
    layers = [nn.InstanceNorm2d(6, track_running_stats=True).double() for _ in range(2)]
    x, before = draw(3, 6, 4, 5).requires_grad_(), layers[0].running_mean.clone()
    assert is_lean(train(layers[0], x))
    layers[1](x)
    assert all(torch.equal(*p) for p in zip(layers[0].buffers(), layers[1].buffers(), strict=True))
    assert not torch.equal(before, layers[0].running_mean)
    assert not is_lean(train(layers[0].eval(), x))  # affine in its input
    assert_same(layers[0], x.detach(), [])


P = draw(1).requires_grad_()
NOT_LEAN = {
    "weight of the input": lambda x: F.layer_norm(x, (5,), W[0] * P * x.mean()),
    "bias of the input": lambda x: F.layer_norm(x, (5,), W[0], W[1] * P * x.mean()),
    "weight of a parameter": lambda x: F.rms_norm(x, (5,), torch.tanh(W[0]) * P),
}


@pytest.mark.parametrize("name", NOT_LEAN)
def test_weights_that_are_computed(name):
    assert not is_lean(train(NOT_LEAN[name], draw(4, 5).requires_grad_()))
    assert_step_is_stock(lambda x: torch.tanh(NOT_LEAN[name](x)), draw(4, 5), [P])


def test_what_is_not_lean(monkeypatch):
    x = draw(4, 5).requires_grad_()
    f = CALLS["F.layer_norm"][0]
    assert train(f, x.detach()).grad_fn is None
    assert not is_lean(train(f, x[:0]))
    assert not is_lean(run(f, x, least=21)[1])
    assert is_lean(run(f, x, least=20)[1])
    rows = torch.func.vmap(torch.func.grad(lambda r: f(r[None]).square().sum()))
    torch.testing.assert_close(train(rows, x), rows(x))
    monkeypatch.setattr(lives, "IMPL", "reference")
    assert not is_lean(train(f, x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.layer_norm(x, (4,)), "normalized_shape"),
        (lambda x: F.layer_norm(x, 5), "normalized_shape"),
        (lambda x: F.rms_norm(x, 5), "normalized_shape"),
        (lambda x: F.group_norm(x, 4), "divisible"),
        (lambda x: F.group_norm(x[:, :, :1, :1], 6), "Expected more than 1 value"),
        (lambda x: F.instance_norm(x[:, :, :1, :1]), "Expected more than 1 spatial element"),
        (lambda x: F.rms_norm(x, (5,), torch.ones(4).double()), "weight"),
    ],
)
def test_errors_are_pytorchs(call, message):
    with pytest.raises((RuntimeError, ValueError, TypeError), match=message) as found:
        train(call, draw(1, 6, 4, 5).requires_grad_())
    with pytest.raises(type(found.value), match=message):
        call(draw(1, 6, 4, 5))


def test_what_is_saved_must_not_change():
    for f, changed in ((F.layer_norm, 0), (F.layer_norm, 1)):
        h, weight = 2 * draw(5, 4).requires_grad_(), draw(4).requires_grad_()
        y = train(lambda h, f=f, weight=weight: f(h, (4,), weight), h)
        with torch.no_grad():
            (h, weight)[changed].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize("frozen", ["x", "g"])
def test_one_of_the_two_gradients(frozen):
    """Of a constant cotangent, or of an input on which nothing depends."""
    f = CALLS["F.layer_norm, affine"][0]
    x, v = draw(4, 5).requires_grad_(), draw(4, 5, seed=1).requires_grad_(frozen == "x")
    mode, y = run(f, x)
    found = []
    for out in (f(x), y):
        with mode.sweep.of(PULL):
            (g,) = torch.autograd.grad(out, x, v, create_graph=True)
        found.append(torch.autograd.grad(g.sin().sum(), v if frozen == "x" else x))
    torch.testing.assert_close(*found)
