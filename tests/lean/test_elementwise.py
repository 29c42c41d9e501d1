"""ReLU and max-pooling of a penalised step, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.graph import nodes
from jacfast.lean import calls
from jacfast.lean.pool import MaxPool2d
from jacfast.ops import lives
from tests.lean.sweeps import assert_same, names, penalty, pull, run
from tests.nets import draw

NAN, INF = float("nan"), float("inf")
RELUS = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "nn.ReLU": nn.ReLU(),
}
IN_PLACE = {
    "F.relu": lambda x: F.relu(x, inplace=True),
    "F.relu by position": lambda x: F.relu(x, True),
    "torch.relu_": torch.relu_,
    "Tensor.relu_": lambda x: x.relu_(),
    "nn.ReLU": nn.ReLU(inplace=True),
}
PIECES = {
    "F.leaky_relu": F.leaky_relu,
    "F.leaky_relu by position": lambda x: F.leaky_relu(x, 0.3),
    "F.leaky_relu, slope 0": lambda x: F.leaky_relu(x, negative_slope=0),
    "nn.LeakyReLU": nn.LeakyReLU(0.2),
    "F.hardtanh": F.hardtanh,
    "F.hardtanh by position": lambda x: F.hardtanh(x, -0.5, 0.7),
    "nn.Hardtanh": nn.Hardtanh(0.1, 0.9),
    "F.relu6": F.relu6,
    "nn.ReLU6": nn.ReLU6(),
}
PIECES_IN_PLACE = {
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.3, inplace=True),
    "F.leaky_relu_": lambda x: F.leaky_relu_(x, 0.3),
    "nn.LeakyReLU": nn.LeakyReLU(0.2, inplace=True),
    "F.hardtanh": lambda x: F.hardtanh(x, inplace=True),
    "F.hardtanh_": lambda x: F.hardtanh_(x, -0.5, 0.7),
    "F.relu6": lambda x: F.relu6(x, inplace=True),
    "nn.ReLU6": nn.ReLU6(inplace=True),
}
POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 2, "stride": (2, 1)},
    {"kernel_size": 2, "dilation": 2},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": (2, 3), "padding": (1, 0)},
    {"kernel_size": [2], "stride": []},
]


def train(f, x):
    return run(f, x)[1]


def values():
    x = draw(2, 3, 7, 8)
    x[0, 0, 0] = torch.tensor([0.0, -0.0, NAN, INF, -INF, 1e-300, -1e-300, 1.0])
    return x


def images(kind):
    """Return a batch without anything special, with many ties, with NaN, or in another layout."""
    x = draw(2, 3, 7, 8)
    if kind == "ties":
        return x.round()
    if kind == "nan":
        x[0, :, 2:4, 3] = NAN
    return x.to(memory_format=torch.channels_last) if kind == "channels last" else x


def assert_apart(f, x):
    """Check that the penalty's graph does not touch that of f, as it does in the stock layer."""
    x.requires_grad_()
    y, stock = train(f, x), f(x)
    for out, touches in ((y, False), (stock, True)):
        _, g = pull(out, x)
        inner = set(nodes(out)) - set(nodes(x + 0))  # without the leaf
        assert any(node in inner for node in nodes(penalty(g))) == touches


@pytest.mark.parametrize("name", RELUS)
def test_relu(name):
    f = RELUS[name]
    assert "PiecewiseBackward" in names(train(f, draw(5, 4).requires_grad_()))
    assert_same(f, draw(2, 3, 7, 8), [])
    assert_apart(f, draw(5, 4))


@pytest.mark.parametrize("name", IN_PLACE)
def test_relu_in_place(name):
    def f(x):
        h = 2 * x
        y = IN_PLACE[name](h)
        assert y is h
        return y * h

    assert "PiecewiseInPlaceBackward" in names(train(f, draw(5, 4).requires_grad_()))
    assert_same(f, draw(2, 3, 7, 8), [])
    assert_apart(lambda x: IN_PLACE[name](2 * x), draw(5, 4))


@pytest.mark.parametrize("name", PIECES)
def test_pieces(name):
    f = PIECES[name]
    assert "PiecewiseOfInputBackward" in names(train(f, draw(5, 4).requires_grad_()))
    assert_same(f, 2 * draw(2, 3, 7, 8), [])
    assert_same(lambda x: f(1 * x), values(), [])
    assert_apart(lambda x: f(2 * x), draw(5, 4))


@pytest.mark.parametrize("name", PIECES_IN_PLACE)
def test_pieces_in_place(name):
    def f(x):
        h = 2 * x
        y = PIECES_IN_PLACE[name](h)
        assert y is h
        return y * h

    assert "PiecewiseInPlaceBackward" in names(train(f, draw(5, 4).requires_grad_()))
    assert_same(f, draw(2, 3, 7, 8), [])
    assert_same(lambda x: PIECES_IN_PLACE[name](1 * x), values(), [])
    assert_apart(lambda x: PIECES_IN_PLACE[name](2 * x), draw(5, 4))


def test_a_slope_below_0_goes_the_stock_way():
    """The output does not tell the side."""

    def f(x):
        return F.leaky_relu(x, -0.5)

    y = train(f, draw(5, 4).requires_grad_())
    assert not [name for name in names(y) if name.startswith("Piecewise")]
    assert_same(f, values(), [])


@pytest.mark.parametrize("f", [F.relu, IN_PLACE["F.relu"]])
def test_relu_at_what_is_not_a_usual_number(f):
    assert_same(lambda x: f(1 * x), values(), [])


def test_views_of_what_is_changed_in_place():
    def f(x):
        h = 2 * x
        part = h[:, 1:]
        h.relu_()
        return part * x[:, 1:]

    assert_same(f, draw(5, 4), [])
    assert "PiecewiseInPlaceBackward" in names(train(f, draw(5, 4).requires_grad_()))


def test_a_view_in_place_goes_the_stock_way(monkeypatch):
    def f(x):
        h = 2 * x
        h[:, 1:].relu_()
        return h

    monkeypatch.setattr(calls, "PiecewiseInPlace", None)
    assert_same(f, draw(5, 4), [])


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_leaf_in_place_is_the_stock_error(name):
    with pytest.raises(RuntimeError, match="leaf Variable"):
        train(IN_PLACE[name], draw(5, 4).requires_grad_())
    x = draw(5, 4)
    assert train(IN_PLACE[name], x).grad_fn is None
    assert bool((x >= 0).all())


def test_what_relu_made_must_not_change():
    x = draw(5, 4).requires_grad_()
    y = train(F.relu, x)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), x)


@pytest.mark.parametrize("kind", ["plain", "ties", "nan", "channels last"])
@pytest.mark.parametrize("options", POOLS, ids=str)
def test_max_pool(options, kind):
    def f(x):
        return F.max_pool2d(x, **options)

    x = images(kind)
    plain = kind != "channels last" and not options.keys() & {"padding", "dilation", "ceil_mode"}
    name = "MaxPool2dBackward" if plain and lives.BUILT else "StockMaxPool2dBackward"
    assert train(f, x.requires_grad_()).grad_fn.name() == name
    assert_same(f, x, [])


def folded(y):
    """Say whether the ReLU before a pooling was folded into it."""
    return "PiecewiseBackward" not in names(y)


@pytest.mark.parametrize("kind", ["plain", "ties", "nan"])
@pytest.mark.parametrize("name", RELUS)
def test_a_relu_is_folded_into_the_pooling_after_it(name, kind):
    def f(x):
        return F.max_pool2d(RELUS[name](2 * x), 2)

    assert folded(train(f, images(kind).requires_grad_())) == bool(lives.BUILT)
    assert_same(f, images(kind), [])


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y + 1,
        lambda y: y.neg_(),
        lambda y: F.pad(y, (1, 1, 1, 1), value=0.5),
    ],
)
def test_a_relu_further_away_is_not_folded(between):
    x = draw(2, 3, 7, 8)
    y = train(lambda z: F.max_pool2d(between(F.relu(2 * z)), 2), x.requires_grad_())
    assert not folded(y)


def test_a_relu_of_something_else_is_not_folded():
    def f(x):
        other = 3 * x
        F.relu(2 * x)
        return F.max_pool2d(other, 2)

    assert_same(f, draw(2, 3, 7, 8), [])


def test_a_relu_whose_output_is_used_twice():
    def f(x):
        y = F.relu(2 * x)
        return F.max_pool2d(y, 2).repeat_interleave(2, 3)[..., :7] + y[:, :, :3, :7].exp()

    assert_same(f, draw(2, 3, 7, 8), [])


@pytest.mark.skipif(not lives.BUILT, reason="choices as bytes are those of the compiled op")
def test_a_folded_relu_leaves_bytes():
    kept = []
    x = draw(2, 3, 8, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = MaxPool2d.apply(x, x.detach().relu(), (2, 2), (2, 2))
    assert [t.dtype for t in kept] == [torch.uint8]
    assert torch.equal(output, F.max_pool2d(x.relu(), 2))


@pytest.mark.parametrize(
    "f", [nn.MaxPool2d(2), lambda x: torch.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2, None)]
)
def test_max_pool_in_all_spellings(f):
    assert "MaxPool2dBackward" in train(f, draw(2, 3, 7, 8).requires_grad_()).grad_fn.name()
    assert_same(f, draw(2, 3, 7, 8), [])
    assert_apart(lambda x: f(2 * x), draw(2, 3, 7, 8))


def test_max_pools_that_go_the_stock_way():
    x = draw(2, 3, 7, 8).requires_grad_()
    for f in (F.max_pool2d, lambda z, *a, **k: nn.MaxPool2d(*a, **k)(z)):
        y, indices = train(lambda z, f=f: f(z, 2, return_indices=True), x)
        assert not any("MaxPool2dBackward" in name for name in names(y))
        assert torch.equal(indices, F.max_pool2d(x, 2, return_indices=True)[1])
    left = names(train(nn.MaxPool2d(2), x[0]))
    assert not any("MaxPool2dBackward" in name for name in left)
    assert train(nn.MaxPool2d(2), x.detach()).grad_fn is None
