"""The squared norm of the input gradient of a network whose first layer is linear."""

import pytest
import torch
from torch import nn

from jacfast import Frobenius, forward_with_penalty
from jacfast.lean import COLLECT, PULL, Gram
from jacfast.lean.sweep import FOREIGN
from tests.lean.sweeps import run
from tests.nets import draw


def net(inputs=6):
    torch.manual_seed(0)
    layers = [nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).double()


def train(f, x, wants_root=False):
    """Return the mode of a step with `x` as its root, and f(x)."""
    return run(f, x.requires_grad_(), x, wants_root=wants_root)


def squares(f, x, parameters, vectors):
    """Return the sum of ||J^T v||^2 over vectors, and its gradients, without lean layers."""
    y = f(x.requires_grad_())
    total = 0
    for v in vectors:
        total += torch.autograd.grad(y, x, v, create_graph=True)[0].square().sum()
    return total, torch.autograd.grad(total, parameters, allow_unused=True)


def by_gram(f, x, parameters, vectors):
    mode, y = train(f, x)
    gram, totals = mode.gram, []
    assert gram.alone(y)
    for v in vectors:
        with mode.sweep.of(PULL):
            (d,) = torch.autograd.grad(y, gram.edge, v, create_graph=True)
        totals.append(gram.square(d))
    with mode.sweep.of(COLLECT):
        found = list(torch.autograd.grad(totals, parameters, allow_unused=True))
    assert gram.weight is parameters[0]
    found[0] = gram.collected() + (0 if found[0] is None else found[0])
    assert gram.collected() is None  # a second time there is nothing left
    return sum(totals), found


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
    for p, ours, stock in zip(model.parameters(), got[1], want[1], strict=True):
        zero = torch.zeros_like(p)
        torch.testing.assert_close(zero if ours is None else ours, zero if stock is None else stock)


@pytest.mark.parametrize("kind", [PULL, FOREIGN])
def test_other_sweeps_collect_nothing(kind):
    mode, y = train(net(), draw(5, 6))
    with mode.sweep.of(PULL):
        (d,) = torch.autograd.grad(y.sum(), mode.gram.edge, create_graph=True)
    with mode.sweep.of(kind):
        torch.autograd.grad(mode.gram.square(d), d)
    assert mode.gram.collected() is None


def test_a_frozen_weight_has_no_gradient_to_collect():
    model = net()
    model[0].weight.requires_grad_(False)
    mode, y = train(model, draw(5, 6))
    with mode.sweep.of(PULL):
        (d,) = torch.autograd.grad(y, mode.gram.edge, draw(5, 3), create_graph=True)
    total = mode.gram.square(d)
    with mode.sweep.of(COLLECT):
        found = torch.autograd.grad(total, [model[2].weight, model[4].weight])
    assert mode.gram.collected() is None
    parameters = [model[2].weight, model[4].weight]
    want = squares(model, draw(5, 6), parameters, [draw(5, 3)])
    torch.testing.assert_close((total, found), want)


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
    mode, y = train(lambda x: f(x, model), draw(5, 6))
    assert not mode.gram.alone(y)


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
    mode, _ = train(lambda x: model(change(x)), draw(5, 6))
    assert mode.gram is None


def test_it_is_not_for_other_precisions_nor_where_the_root_is_wanted():
    model = net().float()
    x = draw(5, 6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert train(model, x)[0].gram is None
    assert train(model, x, wants_root=True)[0].gram is None
    assert train(model, x)[0].gram is not None
    assert run(model, x)[0].gram is None  # without a root
    assert run(model, x, x, rows=None)[0].gram is None  # of a penalty that needs J^T v itself
    assert run(model, x, x, rows=1)[0].gram is None


def test_it_is_the_first_of_layers_however_small_the_layers_are():
    model, x = net(), draw(5, 6).requires_grad_()
    mode, _ = run(lambda x: model(x) + model[4](model[0](x)), x, x, least=1 << 30)
    assert mode.gram.weight is model[0].weight
    assert not mode.active


def test_weights_that_are_no_leaves_are_not_taken():
    """The gradient that the Gram matrix leaves goes to a parameter."""
    root, weight = draw(5, 6).requires_grad_(), draw(4, 6).requires_grad_()
    assert Gram.takes(root, weight, root)
    assert not Gram.takes(root, weight * 1, root)
    assert not Gram.takes(root, weight, root.detach())


def test_a_weight_that_changes_before_the_sweep():
    model = net()
    mode, y = train(model, draw(5, 6))
    with mode.sweep.of(PULL):
        (d,) = torch.autograd.grad(y.sum(), mode.gram.edge, create_graph=True)
    total = mode.gram.square(d)
    with torch.no_grad():
        model[0].weight.add_(1)
    with (
        mode.sweep.of(COLLECT),
        pytest.raises(RuntimeError, match="modified by an inplace operation"),
    ):
        torch.autograd.grad(total, model[2].weight)


@pytest.mark.parametrize(
    ("inputs", "outputs", "ever"), [(784, 100, True), (784, 2000, False), (20, 20, True)]
)
def test_when_it_pays(inputs, outputs, ever):
    """Where it takes fewer multiplications: never for one row, for many if at all."""
    layer, x = nn.Linear(inputs, outputs), draw(2, inputs, dtype=torch.float32).requires_grad_()
    for rows in (1, 10, 30, 50, 100, 1000, 10_000):
        direct = 3 * rows * inputs * outputs
        indirect = 2 * rows * outputs**2 + 2 * inputs * outputs**2
        assert Gram.pays(layer.weight, rows) == (indirect < direct)
        assert (run(layer, x, x, rows=rows)[0].gram is not None) == (indirect < direct)
    assert not Gram.pays(layer.weight, 1)
    assert Gram.pays(layer.weight, 10_000) == ever


@pytest.mark.parametrize("requires_grad", [True, False])
def test_layers_on_something_as_large_as_the_root_are_not_taken(requires_grad):
    """A second argument, or a parameter."""
    root, weight = draw(5, 6).requires_grad_(), draw(4, 6).requires_grad_()
    assert not Gram.takes(draw(5, 6).requires_grad_(requires_grad), weight, root)


@pytest.fixture
def precision():
    """Put the settings back that a test changes."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    yield
    for backend, setting in zip(backends, before, strict=True):
        backend.fp32_precision = setting


class OnGPU(torch.Tensor):
    """A tensor that says it were on a GPU."""

    is_cuda = True


def test_it_is_left_where_products_are_rounded(precision):
    def takes(x, dtype=torch.float32):
        root = x.detach().to(dtype).requires_grad_()
        return Gram.takes(root, torch.ones(4, 6, dtype=dtype), root)

    cpu, gpu = torch.ones(2, 6), torch.ones(2, 6).as_subclass(OnGPU)
    assert takes(cpu)
    assert takes(gpu)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert takes(cpu)
    assert not takes(gpu)
    assert takes(gpu, torch.float64)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    assert not takes(cpu)
    assert takes(cpu, torch.float64)
    assert takes(gpu)
    assert not takes(cpu, torch.float16)


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_the_setting_for_all_devices_counts(precision, setting):
    """With it, where one direction of many dominates, the form lost up to a third."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        for x in (torch.ones(2, 6), torch.ones(2, 6).as_subclass(OnGPU)):
            root = x.requires_grad_()
            assert not Gram.takes(root, torch.ones(4, 6), root)
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_penalty_is_as_close_as_the_products_are(precision):
    """On a CPU that rounds: W has one large direction, which the cotangents nearly avoid."""
    torch.manual_seed(0)
    first, last = nn.Linear(200, 64, bias=False), nn.Linear(64, 5, bias=False)
    u = torch.nn.functional.normalize(torch.randn(64, 1), dim=0)
    with torch.no_grad():
        first.weight.copy_(0.1 * torch.randn(64, 200) + 300 * u @ torch.randn(1, 200))
        last.weight.sub_(last.weight @ u @ u.t())
    model, x = nn.Sequential(first, last), torch.randn(300, 200)
    exact = last.weight.double() @ first.weight.double()
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    got = forward_with_penalty(model, x, penalty=Frobenius("exact"))[1]
    plain = Frobenius("exact")(model(x.requires_grad_()), x)
    want = exact.square().sum()
    assert abs(got - plain) <= 0.01 * abs(plain - want) + 1e-3 * want
