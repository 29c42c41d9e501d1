"""compiled="traced": values, gradients and all else as of the eager call and of plain autograd."""

import copy
import itertools

import pytest
import torch
from torch import nn

from jacfast import Frobenius, InputGradient, Spectral
from tests.nets import relative_error
from tests.step.changing import CHANGING, SHAPE
from tests.step.entries import ENTRIES
from tests.step.networks import SIX, build
from tests.step.others import OTHERS
from tests.step.steps import assert_same, fast, gradient, loss_of, plain, step
from tests.step.test_gradients import PENALTIES
from tests.step.tracing import assert_as_plain, assert_traced, update

UNUSUAL = OTHERS | ENTRIES

OPTIONS = {
    "": {},
    "generator": {"generator": 3},
    "at": {"at": True},
    "precision": {"precision": torch.bfloat16},
    "chunk_size": {"chunk_size": 4},
}

pytestmark = pytest.mark.usefixtures("never_eager")

# What is recorded are the operations of the eager step, whose pairs are all in test_gradients.py:
# those of each network, and those of each penalty twice.
PAIRS = [(name, penalty) for name in ("tutorial", "vit") for penalty in PENALTIES]

PAIRS += [(name, p) for name in SIX for p in ("one projection", "l1") if (name, p) not in PAIRS]


@pytest.mark.parametrize(("name", "penalty"), PAIRS)
def test_the_six(name, penalty):
    """The first call, and one with other parameters, draws, masks and x."""
    model, x, y = build(name, 5)
    for seed in range(2):
        assert_as_plain(model, x + seed, y, PENALTIES[penalty], seed, compiled="traced")
        update(model)
    assert_traced(model, 1)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("penalty", ["one projection", "l1"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual(name, penalty):
    model, x, y = build(name, 5, nets=UNUSUAL)
    for seed in range(2):
        assert_as_plain(model, x + seed, y, PENALTIES[penalty], seed, compiled="traced")
        update(model)
    assert_traced(model, 1)


def three_steps(name, penalty, compiled, options):
    """Return all that three steps give, with what they leave in the model and the generator."""
    torch.manual_seed(5)
    model, x = CHANGING[name]().double(), torch.randn(6, *SHAPE, dtype=torch.float64)
    y, options, found = torch.arange(6) % 3, dict(options), []
    if "generator" in options:
        options["generator"] = torch.Generator().manual_seed(options["generator"])
    if "at" in options:
        options["at"] = torch.linspace(0, 1, x.numel(), dtype=x.dtype).view_as(x)
    for i in range(3):
        logits, value = fast(model, x + i, y, penalty, compiled=compiled, **options)
        weighted = value if value.dim() == 0 else (value * torch.arange(6)).mean()
        found += [logits.detach(), value.detach(), gradient(loss_of(logits, weighted, y), model)]
        update(model)
    assert_traced(model, 0 if compiled is None else 1)
    return [*found, *(b.double() for b in model.buffers()), torch.rand(1)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *itertools.product(["spectral norm", "dropout"], ["", "generator", "at", "precision"]),
        *itertools.product(["parametrized", "instance norm"], ["", "at"]),
        ("dropout", "chunk_size"),
    ],
)
@pytest.mark.parametrize(
    "penalty",
    [Frobenius(), Frobenius(subsample=0.5), InputGradient(), Frobenius(reduction="none")],
    ids=["frobenius", "part", "input gradient", "each"],
)
def test_all_that_changes_is_as_after_eager_calls(name, penalty, options):
    """Buffers, masks, draws and what the generator gives next, under one seed."""
    got, want = (three_steps(name, penalty, way, OPTIONS[options]) for way in ("traced", None))
    assert_same(got, want)


@pytest.mark.parametrize("option", ["coupled", "frozen"])
def test_batch_norm(option):
    model, x, y = build("resnet", 6)
    twin = copy.deepcopy(model.train())
    twin.train()
    for i in range(3):
        got = step(fast, model, x + i, y, Frobenius(), i, batch_norm=option, compiled="traced")
        assert_same(got, step(fast, twin, x + i, y, Frobenius(), i, batch_norm=option))
        assert_same(model.buffers(), twin.buffers())
    assert_traced(model, 1)


def test_dropout_is_fresh():
    model, x, y = build("tutorial")
    first, second = (fast(model, x, y, Frobenius(), compiled="traced")[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("options", [{"layer": "2"}, {"step": 4}, {"chunk_size": 3}])
def test_options(options):
    model, x, y = build("mlp", 6)
    penalty = Frobenius("exact", every=2) if "step" in options else Frobenius("exact")
    for i in range(2):
        got = step(fast, model, x + i, y, penalty, compiled="traced", **options)
        assert_same(got, step(fast, model, x + i, y, penalty, **options))
    assert_traced(model, 1)


class Normed(nn.Module):
    """A model of one's own with buffers, which parts of a batch must not change."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.norm(self.conv(x))).flatten(1))


def test_parts_of_a_batch():
    torch.manual_seed(0)
    model, x, y = Normed().double().eval(), torch.rand(4, 2, 4, 4).double(), torch.arange(4) % 3
    for i in range(2):
        want = step(plain, model, x + i, y, Frobenius("exact"))
        got = step(fast, model, x + i, y, Frobenius("exact"), compiled="traced", chunk_size=2)
        assert_same(got, want)
    assert_traced(model, 1)


def test_zeros_of_autograd_have_no_memory():
    """They are among the derivatives of PyTorch's pooling of powers."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(288, 3)
    model, x = nn.Sequential(*layers).bfloat16(), torch.rand(4, 1, 14, 14).bfloat16()
    y = torch.arange(4) % 3
    for i in range(2):
        got = step(fast, model, x + i, y, Frobenius("exact"), compiled="traced")
        assert_same(got, step(fast, model, x + i, y, Frobenius("exact")))
    assert_traced(model, 1)


class Statistics(nn.Module):
    """A batch-norm whose output nobody needs, but for its running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        self.norm(x)
        return self.linear(x).tanh()


def test_running_statistics_of_a_layer_whose_output_is_not_needed():
    torch.manual_seed(0)
    model, x = Statistics().double(), torch.randn(4, 6).double()
    twin = copy.deepcopy(model)
    for i in range(3):
        fast(model, x + i, None, Frobenius(), batch_norm="coupled", compiled="traced")
        twin(x + i)
        assert_same(model.buffers(), twin.buffers())
    assert_traced(model, 1)


def test_without_gradients():
    model, x, y = build("cifar")
    for seed in range(2):
        torch.manual_seed(seed)
        want = plain(model, x, y, Spectral())
        torch.manual_seed(seed)
        with torch.no_grad():
            got = fast(model, x, y, Spectral(), compiled="traced")
        assert not any(one.requires_grad for one in got)
        assert_same(got, want)
    assert_traced(model, 1)


def test_autocast():
    """The sweeps in bfloat16, the backward pass outside of the context."""
    model, x, y = build("vit", dtype=torch.float32)
    found = []
    for compiled in (None, "traced", "traced"):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, value = fast(model, x, y, Frobenius(), compiled=compiled)
        assert logits.dtype == torch.bfloat16
        found.append(gradient(loss_of(logits, value, y), model))
    assert relative_error(found[1], found[0]) < 1e-6
    assert torch.equal(found[1], found[2])
    assert_traced(model, 1)


class Product(nn.Module):
    """A product with a weight that autocast casts, and keeps for its context."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.randn(6, 5)), nn.Linear(5, 3)

    def forward(self, x):
        return self.last((x @ self.weight).tanh())


def test_casts_that_autocast_has_kept():
    """They are made anew, of the weights as they are, in each call."""
    torch.manual_seed(0)
    model, x, y = Product(), torch.randn(4, 6), torch.arange(4) % 3
    for _ in range(2):
        found = []
        for compiled in (None, "traced"):
            torch.manual_seed(0)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                model(x)
                outputs = fast(model, x, y, Frobenius(), compiled=compiled)
            found.append([*(t.detach() for t in outputs), gradient(loss_of(*outputs, y), model)])
        assert_same(found[1], found[0], 1e-6)
        update(model)
    assert_traced(model, 1)
