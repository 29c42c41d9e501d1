"""The squared norm of the input gradient of a network whose first layer is linear."""

import pytest
import torch
from torch import nn

from jacfast.lean import TRAINING, Lean, Sink
from tests.nets import draw


def net(inputs=6):
    torch.manual_seed(0)
    layers = [nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).double()


def train(f, x, parameters, wants_root=False):
    sink = Sink(parameters)
    sink.begin(x.requires_grad_())
    sink.wants_root = wants_root
    with Lean(sink, TRAINING):
        return sink, f(x)


def squares(f, x, parameters, vectors):
    """Return the sum of ||J^T v||^2 over vectors, and its gradients, without lean layers."""
    y = f(x.requires_grad_())
    total = 0
    for v in vectors:
        total += torch.autograd.grad(y, x, v, create_graph=True)[0].square().sum()
    return total, torch.autograd.grad(total, parameters, allow_unused=True)


def by_gram(f, x, parameters, vectors):
    sink, y = train(f, x, parameters)
    gram, totals = sink.gram, []
    assert gram.alone(y)
    for v in vectors:
        (d,) = torch.autograd.grad(y, gram.edge, v, create_graph=True)
        totals.append(gram.square(d))
    with sink.mine(collecting=True):
        found = torch.autograd.grad(totals, [sink.anchor, *parameters], allow_unused=True)
    assert all(gradient is None for gradient in found)
    gram.flush()
    gram.flush()  # a second time there is nothing left
    return sum(totals), [sink.gradients.get(p) for p in parameters]


WAYS = {
    "samples": (lambda x, m: m(x), (5, 6)),
    "flattened": (lambda x, m: m(x.flatten(1)), (5, 2, 3)),
    "in another order": (lambda x, m: m(x.transpose(1, 2).flatten(1)), (5, 2, 3)),
    "tokens": (lambda x, m: m(x).sum(1), (5, 2, 6)),
    "in place": (lambda x, m: m[1:](m[0](x).mul_(2)), (5, 6)),
}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", WAYS)
def test_value_and_gradients_are_those_of_the_input_gradient(name, n):
    way, shape = WAYS[name]
    model = net()
    arguments = (lambda x: way(x, model), draw(*shape), list(model.parameters()), draw(n, 5, 3))
    got, want = by_gram(*arguments), squares(*arguments)
    torch.testing.assert_close(got[0], want[0])
    for ours, stock in zip(got[1], want[1], strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(
            zero if ours is None else ours, zero if stock is None or not stock.any() else stock
        )


def test_without_collecting_nothing_is_put():
    model = net()
    sink, y = train(model, draw(5, 6), list(model.parameters()))
    (d,) = torch.autograd.grad(y.sum(), sink.gram.edge, create_graph=True)
    torch.autograd.grad(sink.gram.square(d), d)
    sink.gram.flush()
    assert not sink.gradients


@pytest.mark.parametrize(
    "f",
    [
        lambda x, m: m(x) + x[:, :3],
        lambda x, m: m[2:](m[0](x) * m[0](x.flip(0))),
        lambda x, m: m(x) * x.sum(),
    ],
)
def test_it_is_for_networks_with_no_other_way_to_the_root(f):
    model = net()
    sink, y = train(lambda x: f(x, model), draw(5, 6), list(model.parameters()))
    assert sink.gram is None or not sink.gram.alone(y)


CHANGED = {
    "normalised": (lambda x: (x - 0.5) / 2, 6),
    "squashed": (torch.tanh, 6),
    "repeated": (lambda x: x.repeat(1, 2), 12),
    "expanded": (lambda x: x[:, None].expand(-1, 3, -1), 6),
    "with some left out": (lambda x: nn.functional.dropout(x, 0.5), 6),
    "twice and cut": (lambda x: x.repeat(2, 1)[::2], 6),
    "in part": (lambda x: x[:, ::2], 3),
    "rectified": (torch.relu, 6),
}


@pytest.mark.parametrize("name", CHANGED)
def test_it_is_for_layers_on_the_root_itself(name):
    change, inputs = CHANGED[name]
    model = net(inputs)
    sink, y = train(lambda x: model(change(x)), draw(5, 6), list(model.parameters()))
    assert sink.gram is None or not sink.gram.alone(y)


def test_it_is_not_for_other_precisions_nor_where_the_root_is_wanted():
    model = net().float()
    x, parameters = draw(5, 6, dtype=torch.float32), list(model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert train(model, x, parameters)[0].gram is None
    assert train(model, x, parameters, wants_root=True)[0].gram is None
    sink, _ = train(model, x, parameters)
    assert sink.gram is not None
    sink.begin(x)
    assert sink.gram is None


@pytest.mark.parametrize(
    ("inputs", "outputs", "ever"), [(784, 100, True), (784, 2000, False), (20, 20, True)]
)
def test_when_it_pays(inputs, outputs, ever):
    """Where it takes fewer multiplications: never for one row, for many if at all."""
    layer = nn.Linear(inputs, outputs)
    sink, _ = train(layer, draw(2, inputs, dtype=torch.float32), list(layer.parameters()))
    for rows in (1, 10, 30, 50, 100, 1000, 10_000):
        direct = 3 * rows * inputs * outputs
        indirect = 2 * rows * outputs**2 + 2 * inputs * outputs**2
        assert sink.gram.pays(rows) == (indirect < direct)
    assert not sink.gram.pays(1)
    assert sink.gram.pays(10_000) == ever
