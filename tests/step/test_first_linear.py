"""Steps of networks that begin with a linear layer: without the gradient of x, and the same."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jacfast import CrossLipschitz, Frobenius, InputGradient, Spectral
from jacfast.graph import leaf_of, nodes
from jacfast.step.entry import first_linear
from tests.nets import relative_error
from tests.step.steps import ROUNDING, assert_same, fast, gradient, loss_of, plain, step
from tests.step.test_plain_step import PENALTIES, has_node

pytestmark = pytest.mark.parametrize("size", ["small"])


def tied() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(6, 5))


def frozen(*names: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5))
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


NETWORKS = {
    "one layer": lambda: nn.Linear(6, 5),
    "no bias": lambda: nn.Sequential(nn.Linear(6, 7, bias=False), nn.GELU(), nn.Linear(7, 5)),
    "in place": lambda: nn.Sequential(nn.Linear(6, 7), nn.ReLU(inplace=True), nn.Linear(7, 5)),
    "dropout in place": lambda: nn.Sequential(
        nn.Linear(6, 9), nn.Dropout(inplace=True), nn.Linear(9, 5)
    ).train(),
    "nested": lambda: nn.Sequential(
        nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(6, 7)), nn.Tanh(), nn.Linear(7, 5)
    ),
    "tied": tied,
    "weight frozen": lambda: frozen("0.weight"),
    "bias frozen": lambda: frozen("0.bias"),
    "layer frozen": lambda: frozen("0.weight", "0.bias"),
    "last weight frozen": lambda: frozen("2.weight"),
}


def build(network: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return NETWORKS[network]().double(), torch.randn(4, 6).double(), torch.arange(4)


@pytest.mark.parametrize("penalty", ["one projection", "three", "input gradient", "spectral"])
@pytest.mark.parametrize("network", NETWORKS)
def test_networks(network, penalty, size):
    model, x, y = build(network)
    assert_same(*(step(way, model, x, y, PENALTIES[penalty]) for way in (fast, plain)))


def test_every_token_passes_by_itself(size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 5)).double()
    x, y = torch.randn(4, 2, 3).double(), torch.arange(4)
    assert_same(*(step(way, model, x, y, Frobenius(3)) for way in (fast, plain)))


def test_x_has_no_part_in_the_graph(size):
    model, x, y = build("in place")
    logits, value = fast(model, x, y, Frobenius())
    leaves = {id(leaf_of(node)) for node in nodes(value + logits.sum())} - {id(None)}
    assert leaves == {id(p) for p in model.parameters()}
    assert x.grad is None
    assert not x.requires_grad


@pytest.mark.parametrize("penalty", ["one projection", "input gradient"])
@pytest.mark.parametrize("network", ["nested", "layer frozen", "tied"])
def test_an_x_that_wants_its_gradient_gets_it(network, penalty, size):
    model, x, y = build(network)
    root = x.clone().requires_grad_()
    found = []
    for way in (fast, plain):
        torch.manual_seed(0)
        loss = loss_of(*way(model, root.square(), y, PENALTIES[penalty]), y)
        found.append(gradient(loss, model, root))
    assert relative_error(*found) < ROUNDING


@dataclasses.dataclass(frozen=True)
class AlongX(Frobenius):
    """Its cotangent is the logits' change along x, which depends on the graph of x."""

    def cotangents(self, logits, x, y, draw):
        (g,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return (g * x).sum(1)[None, :, None].expand(1, *logits.shape)


class _Along:
    cotangents = AlongX.cotangents


class Beside(_Along, Frobenius):
    """Its cotangents are those of a class which is no penalty."""


LOOKING = [AlongX(), Beside(), Spectral()]


@pytest.mark.parametrize("penalty", LOOKING, ids=lambda p: type(p).__name__)
def test_penalties_that_look_at_x_have_it(penalty, size):
    model, x, y = build("nested")
    assert first_linear(model, penalty) is None
    assert_same(*(step(way, model, x, y, penalty) for way in (fast, plain)))


def test_whoever_says_that_x_is_not_looked_at_is_believed(size):
    class Same(Frobenius):
        of_logits = True

        def cotangents(self, logits, x, y, draw):
            return super().cotangents(logits, x, y, draw)

    model = build("nested")[0]
    assert first_linear(model, Same()) is model[1][1]
    assert first_linear(model, type("Other", (Same,), {"cotangents": Same.cotangents})()) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_under_autocast(dtype, size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5))
    x, y = torch.randn(32, 64), torch.arange(32) % 5
    found = []
    for way in (fast, plain):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits, value = way(model, x, y, Frobenius())
        assert value.dtype == torch.float32
        found.append(gradient(loss_of(logits, value, y), model))
    assert relative_error(*found) < (2e-2 if dtype == torch.bfloat16 else 1e-5)


def layers(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(512, 512), *between, nn.Linear(512, 5))


LARGE = {  # what of a step of 400 samples makes it one for the node, or not
    "linear layers": (lambda: layers(nn.ReLU()), Frobenius(), False),
    "leaky": (lambda: layers(nn.LeakyReLU()), CrossLipschitz(), False),
    "labels": (lambda: layers(nn.ReLU()), InputGradient(), False),
    "smooth": (lambda: layers(nn.GELU()), Frobenius(), True),
    "two projections": (lambda: layers(nn.ReLU()), Frobenius(2), True),
    "all rows": (lambda: layers(nn.ReLU()), Frobenius("exact"), True),
    "a part of the batch": (lambda: layers(nn.ReLU()), Frobenius(subsample=0.5), False),
    "a part, dropout": (
        lambda: layers(nn.ReLU(), nn.Dropout()).train(),
        Frobenius(subsample=0.5),
        True,
    ),
    "looks at x": (lambda: layers(nn.ReLU()), Spectral(), True),
    "Gram matrix": (
        lambda: nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 5)),
        Frobenius(),
        True,
    ),
}


@pytest.mark.parametrize("case", LARGE)
def test_large_steps(case, size):
    make, penalty, node = LARGE[case]
    torch.manual_seed(0)
    model, x, y = make().double(), torch.randn(400, 512).double(), torch.arange(400) % 5
    _, value = fast(model, x, y, penalty)
    assert has_node(value) == node
    if penalty.subsample == 1:
        assert_same(*(step(way, model, x, y, penalty) for way in (fast, plain)))


def test_a_step_that_is_better_cut_takes_the_node(size):
    """Of its largest tensor more than 16 MB would be beyond the caches."""
    x, y = torch.randn(9000, 512), torch.arange(9000) % 5
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 5))
    assert not has_node(fast(model, x[:400], y[:400], InputGradient())[1])
    assert has_node(fast(model, x, y, InputGradient())[1])


class Products(TorchDispatchMode):
    """How many multiplications the matrix products inside take."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        at = {"aten::mm": 0, "aten::addmm": 1}.get(func.name().split(".")[0])
        if at is not None:
            self.count += args[at].numel() * args[at + 1].shape[1]
        return func(*args, **(kwargs or {}))


def products(loss) -> int:
    with Products() as counted:
        loss().backward()
    return counted.count


def test_no_product_is_computed_for_nothing(size):
    """One layer's: two in a plain step, as x needs none; of what is penalised three more."""
    torch.manual_seed(0)
    wide = 512  # beside which the last layer does not count
    model, x = layers(nn.ReLU()), torch.randn(128, wide)
    y = torch.arange(128) % 5
    plain_step = products(lambda: F.cross_entropy(model(x), y))
    for share in (1, 0.25):
        ours = products(lambda s=share: loss_of(*fast(model, x, y, Frobenius(subsample=s)), y))
        # forward and the weight's gradient; J^T v, its cotangent's gradient and its weight's
        want = (2 + 3 * share) / 2
        assert ours / plain_step == pytest.approx(want, rel=0.02)
