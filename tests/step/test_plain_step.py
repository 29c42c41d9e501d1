"""Steps of small networks, by plain double backward: the same numbers as by the node."""

import functools

import pytest
import torch
from torch import nn

from jacfast import CrossLipschitz, Frobenius, InputGradient, Spectral, models
from jacfast.calling import tree
from jacfast.calling.parts import ALONE, ALONE_IN_EVAL
from jacfast.graph import nodes
from jacfast.step import plain as plain_way
from tests.nets import relative_error
from tests.step.networks import build
from tests.step.steps import ROUNDING, assert_same, fast, gradient, loss_of, plain, step
from tests.testing import batch_rows

pytestmark = pytest.mark.parametrize("size", ["small"])

PENALTIES = {
    "one projection": Frobenius(),
    "three": Frobenius(3),
    "exact": Frobenius("exact"),
    "root": Frobenius(root=True),
    "weights": Frobenius(weights=torch.arange(5.0)),
    "each sample": Frobenius(reduction="none"),
    "cross-Lipschitz": CrossLipschitz("exact"),
    "input gradient": InputGradient(),
    "spectral": Spectral(),
}
SAMPLE = {"1d": (3, 4), "2d": (2, 4, 4), "3d": (2, 3, 4, 4)}  # by the end of a layer's name
ARGUMENTS = {
    nn.Linear: (6, 5),
    nn.GroupNorm: (1, 2),
    nn.LayerNorm: (6,),
    nn.Threshold: (0.1, 0.2),
    **dict.fromkeys((nn.Conv1d, nn.ConvTranspose1d), (3, 4, 2)),
    **dict.fromkeys((nn.Conv2d, nn.ConvTranspose2d), (2, 3, 2)),
    **dict.fromkeys((nn.Conv3d, nn.ConvTranspose3d), (2, 3, 2)),
    **dict.fromkeys((nn.BatchNorm2d, nn.InstanceNorm2d, nn.BatchNorm3d, nn.InstanceNorm3d), (2,)),
    **dict.fromkeys((nn.BatchNorm1d, nn.InstanceNorm1d), (3,)),
}
KINDS = sorted({*ALONE, *ALONE_IN_EVAL, nn.LayerNorm}, key=lambda kind: kind.__name__)
HELPED = {*ALONE_IN_EVAL, nn.Hardsigmoid}  # whose backward passes need help


def around(kind: type) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a layer of that kind with a linear one behind it, a batch for it, and labels."""
    torch.manual_seed(0)
    pools = "Pool" in kind.__name__ or "Pad" in kind.__name__
    layer = kind(*ARGUMENTS.get(kind, (2,) if pools else ()))
    x = torch.randn(4, *SAMPLE.get(kind.__name__[-2:], (2, 6) if kind is nn.GroupNorm else (6,)))
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(5)).eval()
    model(x)
    return model.double(), x.double(), torch.arange(4)


def has_node(value: torch.Tensor) -> bool:
    return any(node.name() == "NodeBackward" for node in nodes(value))


@pytest.fixture
def plain_steps(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models of the steps that were made without a look at any graph."""
    models, way = [], plain_way.plain_step

    def counted(model, *rest):
        if len(rest) < 6:  # nothing is expected: the layers are known
            models.append(model)
        return way(model, *rest)

    monkeypatch.setattr(plain_way, "plain_step", counted)
    return models


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_known_layer(kind, plain_steps, size):
    model, x, y = around(kind)
    assert_same(*(step(way, model, x, y, Frobenius()) for way in (fast, plain)))
    assert len(plain_steps) == (kind not in HELPED)
    assert not has_node(fast(model, x, y, Frobenius())[1])


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("network", ["mlp", "tutorial", "cifar"])
def test_penalties(network, penalty, size):
    """With dropout, layers in place, and an x that has a gradient."""
    model, x, y = build(network, 5)
    x.requires_grad_()
    found = []
    for way in (fast, plain):
        torch.manual_seed(0)
        logits, value = way(model, x, y, PENALTIES[penalty])
        loss = loss_of(logits, value.mean(), y)
        found.append((logits, value, gradient(loss, model, x)))
    assert_same(*found)
    assert not has_node(fast(model, x, y, PENALTIES[penalty])[1])


@pytest.mark.parametrize(
    ("network", "together", "pulls"),
    [("mlp", True, 1), ("mlp", False, 3), ("cifar", True, 1), ("cifar", False, 3)],
)
def test_projections_are_pulled_back_at_once_where_that_pays(
    network, together, pulls, size, monkeypatch
):
    model, x, y = build(network, 9)
    batch_rows(monkeypatch, together)
    made, pull = [], plain_way.grad
    monkeypatch.setattr(plain_way, "grad", lambda *a, **b: made.append(1) or pull(*a, **b))
    found = [step(way, model.eval(), x, y, Frobenius(3)) for way in (fast, plain)]
    assert len(made) == pulls
    assert_same(*found)


class NotZeroAtZero(InputGradient):
    """By which the others would count, had they no part in the gradient."""

    def measure(self, g):
        return (1 + super().measure(g)).sqrt()


@pytest.mark.parametrize("network", ["mlp", "tutorial", "cifar"])
@pytest.mark.parametrize("generator", [True, False])
@pytest.mark.parametrize("call", [0, plain_way.CALL])
def test_a_part_of_the_batch_is_the_one_that_the_node_takes(
    network, generator, call, size, monkeypatch
):
    """Whether the penalised samples pass alone (no dropout, and worth a call) or not."""
    model, x, y = build(network, 6)
    monkeypatch.setattr(plain_way, "CALL", call)
    found = []
    for by_plain in (plain_way.is_cheaper, lambda *_: False):
        monkeypatch.setattr(plain_way, "is_cheaper", by_plain)
        for kind in (Frobenius, functools.partial(Frobenius, 3), InputGradient, NotZeroAtZero):
            penalty = kind(subsample=0.5)
            source = torch.Generator().manual_seed(3) if generator else None
            found.append(step(fast, model, x, y, penalty, generator=source))
    for one, other in zip(found[:4], found[4:], strict=True):
        assert_same(one, other)


def test_what_is_done_to_logits_and_x_outside_changes_nothing(size):
    model, x, y = build("mlp")
    model.append(nn.Tanh())  # whose backward pass reads what it has returned
    want = gradient(loss_of(*step_of(model, x, y), y), model)
    before = x.clone()
    logits, value = step_of(model, x, y)
    loss = loss_of(logits, value, y)
    with torch.no_grad():
        logits.zero_()
    assert relative_error(gradient(loss, model), want) < ROUNDING
    assert torch.equal(x, before)
    assert not x.requires_grad


FIRST = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "bounded": lambda: nn.Hardtanh(-0.1, 0.1, inplace=True),
    "smooth": lambda: nn.SiLU(inplace=True),
}


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("penalty", ["one projection", "input gradient", "spectral"])
@pytest.mark.parametrize("first", FIRST)
def test_a_model_that_begins_in_place(first, penalty, wanted, size):
    """J is with respect to x as it was, and x is left so."""
    model, x, y = build("mlp", 5)
    x, before = x.requires_grad_(wanted), x.detach().clone()
    found = []
    in_place = nn.Sequential(FIRST[first](), *model)
    beside = nn.Sequential(FIRST[first](), *model)
    beside[0].inplace = False
    for way, one in ((fast, in_place), (plain, beside)):
        found.append(step(way, one, x, y, PENALTIES[penalty]))
    assert_same(*found)
    assert torch.equal(x, before)


@pytest.mark.parametrize("first", FIRST)
def test_penalised_samples_that_pass_first_leave_x_as_it_is(first, size, monkeypatch):
    model, x, y = build("mlp")
    model.insert(0, FIRST[first]())
    before, penalty = x.clone(), Frobenius(subsample=0.5)
    by_node = step(fast, model, x, y, penalty, chunk_size=len(x))
    monkeypatch.setattr(plain_way, "CALL", 0)
    assert_same(step(fast, model, x, y, penalty), by_node)
    assert torch.equal(x, before)


def step_of(model, x, y):
    torch.manual_seed(0)
    return fast(model, x, y, Frobenius())


@pytest.mark.parametrize(
    "change",
    [
        lambda model, options: options.update(chunk_size=2),
        lambda model, options: options.update(layer="2"),
        lambda model, options: options.update(precision=torch.bfloat16),
        lambda model, options: model[0].register_forward_hook(lambda *_: None),
        lambda model, options: model.append(type("Own", (nn.Linear,), {})(5, 5).double()),
    ],
)
def test_whatever_else_is_asked_for_is_looked_at(change, plain_steps, size):
    model, x, y = build("mlp")
    options = {"penalty": Frobenius()}
    change(model, options)
    fast(model, x, y, **options)
    assert not plain_steps


def test_without_gradients_it_is_a_number(size):
    model, x, y = build("mlp")
    want = step_of(model, x, y)[1]
    with torch.no_grad():
        value = step_of(model, x, y)[1]
    assert relative_error(value, want) < ROUNDING
    assert not value.requires_grad
    model.requires_grad_(False)
    assert relative_error(step_of(model, x, y)[1], want) < ROUNDING


def test_large_ones_take_the_node(size):
    """By the entries of a layer, the products with weights, and where the Gram matrix pays."""
    wide = nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 5))
    deep = nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 5))
    even = nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 5))
    cases = [(wide, 511, 1, False), (wide, 512, 1, True), (deep, 253, 1, False)]
    cases += [(deep, 254, 1, True), (even, 153, "exact", False), (even, 154, "exact", True)]
    for model, count, n, node in cases:
        x = torch.rand(count, model[0].in_features)
        assert has_node(fast(model, x, None, Frobenius(n))[1]) == node, (count, n)


def test_the_gradient_has_a_derivative(size):
    """As by plain double backward; the node refuses that."""
    model, x, y = build("mlp")
    found = []
    for way in (fast, plain):
        torch.manual_seed(0)
        loss = loss_of(*way(model, x, y, Frobenius()), y)
        weights = list(model.parameters())
        grads = torch.autograd.grad(loss, weights, create_graph=True)
        again = torch.autograd.grad(sum(g.square().sum() for g in grads), weights)
        found.append(torch.cat([g.flatten() for g in again]))
    assert relative_error(*found) < ROUNDING


@pytest.mark.parametrize("kind", ["hook", "retained"])
@pytest.mark.parametrize("penalty", ["one projection", "input gradient", "spectral"])
@pytest.mark.parametrize("network", ["mlp", "tutorial"])
def test_what_hangs_from_x_waits_for_the_backward_pass(network, penalty, kind, size):
    """Neither the hooks of x nor its retained gradient meet the rows of the penalty."""
    model, x, y = build(network)
    root = x.clone().requires_grad_()
    torch.manual_seed(0)
    want = gradient(loss_of(*plain(model, root.clone(), y, PENALTIES[penalty]), y), model, root)
    given, seen = root.clone(), []
    if kind == "hook":
        given.register_hook(lambda g: seen.append(g) or 2 * g)
    else:
        given.retain_grad()
    torch.manual_seed(0)
    loss = loss_of(*fast(model, given, y, PENALTIES[penalty]), y)
    assert not seen
    assert kind == "hook" or given.grad is None
    weights = [p for p in model.parameters() if p.requires_grad]
    loss.backward(inputs=[*weights, root])
    got = [*(p.grad for p in weights), root.grad / 2 if kind == "hook" else given.grad]
    assert relative_error(torch.cat([g.flatten() for g in got]), want) < ROUNDING
    assert len(seen) == (kind == "hook")


@pytest.mark.parametrize(("samples", "cheaper"), [(256, True), (327, True), (330, False)])
def test_the_gram_matrix_must_pay_with_a_third_to_spare(samples, cheaper, size):
    """Products alone would say 219 samples, of which the node's calls take what is saved."""
    model, x = models.mlp(784, 256, 256, 10), torch.rand(samples, 784)
    assert plain_way.is_cheaper(model, tree(model), Frobenius(), x) == cheaper
