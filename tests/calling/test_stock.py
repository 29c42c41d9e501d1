"""What a program puts in the place of PyTorch's own runs, in steps, attacks and measures."""

import contextlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

import jacfast
from jacfast.calling.stock import overridden
from jacfast.lean import mode
from jacfast.lipschitz import chain
from jacfast.penalties import Frobenius
from tests.nets import draw, relative_error

Y = torch.arange(6) % 3
EXACT = Frobenius(n="exact")


class Doubled(TorchFunctionMode):
    """Doubles the weight of one function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is self.function:
            args = (args[0], 2 * args[1], *args[2:])
        return func(*args, **(kwargs or {}))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Plain(nn.Module):
    """Attention without projections."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(x)[:, None]
        return self.head(F.scaled_dot_product_attention(h, h, h)[:, 0].mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def wide() -> nn.Module:
    """The first of its layers is cheaper by the Gram matrix of its weight."""
    return nn.Sequential(nn.Linear(40, 2), nn.GELU(), nn.Linear(2, 3))


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


@contextlib.contextmanager
def patched(where, name, make):
    own = getattr(where, name)
    setattr(where, name, make(own))
    try:
        yield
    finally:
        setattr(where, name, own)


def sharper(_):
    return lambda q, k, v, *rest, **more: (3 * q @ k.mT).softmax(-1) @ v


def twice(linear):
    return lambda x, weight, bias=None: 2 * linear(x, weight, bias)


IN_PLACE = {
    "mode, linear": (mlp, (6,), lambda: Doubled(F.linear)),
    "mode, convolution": (cnn, (1, 4, 4), lambda: Doubled(torch.conv2d)),
    "mode, attention": (Plain, (3, 4), lambda: Doubled(F.scaled_dot_product_attention)),
    "class": (
        mlp,
        (6,),
        lambda: patched(nn.Linear, "forward", lambda own: lambda layer, x: own(layer, 2 * x)),
    ),
    "function": (mlp, (6,), lambda: patched(F, "linear", twice)),
    "function, Gram": (wide, (40,), lambda: patched(F, "linear", twice)),
    "attention": (Attending, (3, 4), lambda: patched(F, SDPA, sharper)),
}
SDPA = "scaled_dot_product_attention"


def built(name):
    torch.manual_seed(0)
    make, shape, put = IN_PLACE[name]
    return make().double(), draw(6, *shape), put


def by_hand(model, x):
    """Return logits, mean ||J||_F^2 and the gradient of a loss of both, row by row."""
    x = x.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        logits = model(x)
    rows = [torch.autograd.grad(z.sum(), x, create_graph=True)[0] for z in logits.unbind(1)]
    value = sum(row.square().sum() for row in rows) / len(x)
    return logits, value, gradient(model, logits, value)


def gradient(model, logits, value):
    loss = F.cross_entropy(logits, Y) + value
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


EARLY = """
import torch
import torch.nn.functional as F

linear = F.linear


def scaled_dot_product_attention(q, k, v, *rest, **more):
    return (3 * q @ k.mT).softmax(-1) @ v


F.scaled_dot_product_attention = scaled_dot_product_attention
F.linear = lambda x, weight, bias=None: 2 * linear(x, weight, bias)

from tests.calling.test_stock import check, mlp, Attending

check(mlp().double(), torch.randn(6, 6).double())
check(Attending().double(), torch.randn(6, 3, 4).double())
"""


def check(model, x, **options):
    want = by_hand(model, x)
    logits, value = jacfast.forward_with_penalty(model, x, penalty=EXACT, **options)
    got = logits, value, gradient(model, logits, value)
    assert all(relative_error(a, b) < 1e-9 for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("least", [0, mode.LEAST])
@pytest.mark.parametrize("options", [{}, {"at": True}], ids=["one pass", "two"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_steps(name, options, least, monkeypatch):
    monkeypatch.setattr(mode, "LEAST", least)
    model, x, put = built(name)
    plain = model(x)
    given = {"at": x.clone()} if options else {}
    with put():
        assert relative_error(model(x), plain) > 0.01
        for _ in range(2):  # the second call may expect what the first one found
            check(model, x, **given)


@pytest.mark.parametrize("name", IN_PLACE)
def test_rows_and_attacks(name):
    model, x, put = built(name)
    with put():
        x.requires_grad_()
        rows = [torch.autograd.grad(model(x)[:, k].sum(), x)[0] for k in range(3)]
        x.requires_grad_(False)
        assert relative_error(jacfast.jacobian(model, x), torch.stack(rows, 1)) < 1e-9
        found = jacfast.deepfool(model, x)
        other = jacfast.deepfool(lambda x: model(x), x)
    assert relative_error(found.r, other.r) < 1e-9


def test_what_is_in_place_before_the_library_is_imported():
    subprocess.run([sys.executable, "-c", EARLY], check=True)


def test_layers_bound_nothing_that_they_do_not_compute():
    model = mlp()
    assert chain(model) is not None
    for put in (IN_PLACE[name][2] for name in ("mode, linear", "class", "function")):
        with put():
            assert chain(model) is None
    assert chain(model) is not None


def test_a_default_device_is_nobody_elses():
    with torch.device("cpu"):
        assert not overridden()
    with Doubled(F.linear):
        assert overridden()
