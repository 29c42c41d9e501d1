"""A model whose last call was PyTorch's own throughout: the next is not watched, and alike."""

import copy
import gc
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from jacfast import (
    CrossLipschitz,
    DecisionFunction,
    EntrywiseL1,
    Frobenius,
    InputGradient,
    Spectral,
    graph,
)
from jacfast.lean import attention
from jacfast.step import run, seen
from tests.step.networks import build
from tests.step.steps import assert_same, fast, plain, step

pytestmark = pytest.mark.parametrize("size", ["small"])


class Net(nn.Module):
    """A network that does what `kind` says, from the call on in which it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last, self.elsewhere = (
            nn.Linear(64, 3),
            torch.ones(64, dtype=torch.float64, requires_grad=True),
        )

    def forward(self, x):
        x = F.gelu(self.norm(self.first(x)))
        if self.kind == "attention":
            x = x + F.scaled_dot_product_attention(x, x, x)
        if self.kind == "attention in a checkpoint":
            x = x + checkpoint(F.scaled_dot_product_attention, x, x, x, use_reentrant=False)
        if self.kind == "checkpoint":
            x = checkpoint(torch.tanh, x, use_reentrant=False)
        x = x.flatten(1)
        if self.kind == "coupled":
            x = F.batch_norm(x, None, None, training=True)
        if self.kind == "leaf":
            x = x * self.elsewhere
        if self.kind == "function":
            x = Cut.apply(x)
        if self.kind == "detached":
            x = x.detach() @ torch.ones(64, 64).double()
            return F.linear(x, self.last.weight.detach())
        if self.kind == "margin":
            classes = torch.zeros(len(x), dtype=torch.int64)
            return F.multi_margin_loss(self.last(x), classes, reduction="none")
        return self.last(x)


class Cut(torch.autograd.Function):
    """x^2, whose backward pass leaves no graph."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


@pytest.fixture
def batch():
    torch.manual_seed(0)
    model = Net().double().eval()
    return model, torch.randn(5, 2, 4, 4).double(), torch.arange(5) % 3


@pytest.fixture
def watched(monkeypatch):
    """Return the list of calls that are watched, layer by layer."""
    calls, forward = [], run.Run._forward
    monkeypatch.setattr(
        run.Run,
        "_forward",
        lambda self, *rest, **more: calls.append(1) or forward(self, *rest, **more),
    )
    return calls


@pytest.mark.parametrize(
    "penalty",
    [
        Frobenius(),
        Frobenius(root=True),
        Frobenius(reduction="none"),
        CrossLipschitz(),
        InputGradient(),
        InputGradient(norm=1),
        DecisionFunction(),
        EntrywiseL1(),
        Spectral(),
        Frobenius(subsample=0.4),
        InputGradient(norm=1, subsample=0.4),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_later_calls_have_the_bits_of_the_first(penalty, dtype, size, batch, watched):
    model, x, y = batch[0].to(dtype), batch[1].to(dtype), batch[2]
    x = x.to(memory_format=torch.channels_last)
    mean = fast if penalty.reduction == "mean" else _mean
    calls = [step(mean, model, x, y, penalty) for _ in range(3)]
    assert len(watched) == 1 or not seen._simple(penalty)
    for later in calls[1:]:
        assert all(map(torch.equal, later, calls[0]))
    if penalty.subsample < 1:  # the plain way draws in another order
        return
    want = step(plain if mean is fast else _plain_mean, model.double(), x.double(), y, penalty)
    assert_same([t.double() for t in calls[1]], want, 1e-9 if dtype == torch.float64 else 1e-4)


def _mean(*arguments, **options):
    logits, value = fast(*arguments, **options)
    return logits, value.mean()


def _plain_mean(*arguments, **options):
    logits, value = plain(*arguments, **options)
    return logits, value.mean()


@pytest.mark.parametrize("name", ["convnext", "resnet"])
def test_networks_of_all_kinds(name, size):
    model, x, y = build(name, 6)
    first, *later = (step(fast, model, x, y, Frobenius()) for _ in range(3))
    for call in later:
        assert all(map(torch.equal, call, first))
    assert_same(first, step(plain, model, x, y, Frobenius()))


@pytest.mark.parametrize(
    "change",
    ["samples", "dtype", "penalty", "wants", "projections", "share", "layer", "frozen", "model"],
)
def test_a_call_of_another_kind_is_watched(change, size, batch, watched):
    model, x, y = batch
    fast(model, x, y, Frobenius())
    options, penalty = {}, Frobenius()
    if change == "samples":
        x, y = x[:4], y[:4]
    elif change == "dtype":
        model, x = model.float(), x.float()
    elif change == "wants":
        x = x.requires_grad_()
    elif change == "layer":
        options["layer"] = "norm"
    elif change == "frozen":
        model.requires_grad_(False)
    elif change == "model":
        model = Net().double().eval()
    else:
        others = {"penalty": EntrywiseL1(), "projections": Frobenius("exact")}
        penalty = others.get(change, Frobenius(subsample=0.4))
    before = len(watched)
    fast(model, x, y, penalty, **options)
    assert len(watched) > before


def test_without_gradients_nothing_is_kept(size, batch):
    model, x, y = batch
    fast(model, x, y, Frobenius())
    with torch.no_grad():
        logits, value = fast(model, x, y, Frobenius())
    assert not logits.requires_grad
    assert not value.requires_grad


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("leaf", RuntimeError, "not one of model.parameters"),
        ("coupled", RuntimeError, "each sample's logits depend on the whole batch"),
        ("function", RuntimeError, "an operation without a second derivative"),
        ("detached", ValueError, "must depend on x"),
    ],
)
def test_what_is_new_in_a_later_call_is_refused_as_in_a_first(kind, error, words, size, batch):
    model, x, y = batch
    fast(model, x, y, Frobenius())
    model.kind = kind
    with pytest.raises(error, match=words):
        fast(model, x, y, Frobenius())


def test_a_missing_second_derivative_that_is_new(size, batch):
    model, x, y = batch
    fast(model, x, y, Frobenius())
    model.kind = "margin"
    logits, value = fast(model, x, None, Frobenius())
    with pytest.raises(RuntimeError, match="the penalty needs second derivatives of every"):
        (logits.sum() + value).backward()


@pytest.mark.parametrize("kind", ["attention", "checkpoint"])
def test_attention_and_checkpoints_that_are_new_have_the_right_gradient(kind, size, batch):
    model, x, y = batch
    fast(model, x, y, Frobenius())
    model.kind = kind
    assert_same(*(step(way, model, x, y, Frobenius()) for way in (fast, plain)))


def test_a_model_with_a_checkpoint_is_watched_in_every_call(size, batch, watched):
    model, x, y = batch
    model.kind = "checkpoint"
    for _ in range(3):
        fast(model, x, y, Frobenius())
    assert len(watched) == 3


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("penalty", [Frobenius(), InputGradient(norm=1)], ids=repr)
def test_attention_runs_as_it_did_when_it_was_watched(
    fused, penalty, size, batch, watched, monkeypatch
):
    model, x, y = batch
    model.kind = "attention"
    if fused:
        monkeypatch.setattr(attention, "LEAST", 0)
    first, *later = (step(fast, model, x, y, penalty) for _ in range(3))
    assert len(watched) == 1
    for call in later:
        assert all(map(torch.equal, call, first))
    with sdpa_kernel(SDPBackend.MATH):
        assert_same(first, step(plain, model, x, y, penalty))


def test_multi_head_attention(size, watched):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(40, 3)).double()
    x, y = torch.randn(4, 5, 8).double(), torch.arange(4) % 3
    first, later = (step(fast, model, x, y, Frobenius()) for _ in range(2))
    assert len(watched) == 1
    assert all(map(torch.equal, first, later))
    with sdpa_kernel(SDPBackend.MATH):
        assert_same(first, step(plain, model, x, y, Frobenius()))


@pytest.mark.parametrize(
    "penalty", [Frobenius(), InputGradient(), Frobenius(subsample=0.4)], ids=repr
)
def test_attention_that_is_in_a_checkpoint_from_now_on(penalty, size, batch, watched):
    """It is called once all the same, and its backward pass finds what the forward pass found."""
    model, x, y = batch
    model.kind, calls = "attention", []
    fast(model, x, y, penalty)
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    model.kind = "attention in a checkpoint"
    found = step(fast, model, x, y, penalty)
    assert len(calls) == 1
    want = step(fast, copy.deepcopy(model), x, y, penalty)
    assert_same(found, want)
    fast(model, x, y, penalty)
    assert len(watched) == 4
    if penalty.subsample == 1:
        with sdpa_kernel(SDPBackend.MATH):
            assert_same(found, step(plain, model, x, y, penalty))


def test_hooks_of_saved_tensors_around_the_call(size, batch, watched):
    model, x, y = batch
    want = step(fast, model, x, y, Frobenius())
    with torch.autograd.graph.save_on_cpu():
        found = step(fast, model, x, y, Frobenius())
    assert len(watched) == 2
    assert_same(found, want)


def test_a_model_in_training_mode_is_refused_as_before(size, batch):
    model, x, y = batch
    fast(model, x, y, Frobenius())
    with pytest.raises(RuntimeError, match="batch-norm in training"):
        fast(model.train(), x, y, Frobenius())


def test_other_weights_are_seen(size, batch):
    model, x, y = batch
    fast(model, x, y, Frobenius())
    with torch.no_grad():
        model.last.weight.mul_(2)
        model.norm.running_var.mul_(3)
    assert_same(*(step(way, model, x, y, Frobenius()) for way in (fast, plain)))


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("generator", [False, True])
def test_dropout_draws_what_it_draws_in_a_first_call(share, generator, size, watched):
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3))

        def forward(self, x):
            return self.layers(x)

    torch.manual_seed(0)
    model, x, y = Drops(), torch.rand(4, 6), torch.arange(4) % 3
    calls = []
    for _ in range(2):
        source = torch.Generator().manual_seed(3) if generator else None
        penalty = Frobenius(subsample=share)
        calls.append([*step(fast, model, x, y, penalty, generator=source), torch.rand(2)])
    assert len(watched) == 1
    assert all(map(torch.equal, *calls))
    assert not torch.equal(calls[1][0], step(fast, model, x, y, penalty, seed=1)[0])


def test_what_is_known_goes_with_the_model_which_needs_no_hash(size):
    class Equal(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 8)

        def __eq__(self, other):
            return True

        __hash__ = None

        def forward(self, x):
            return self.layer(x).tanh()

    model, x = Equal(), torch.rand(4, 3)
    gc.collect()
    before = len(seen._seen)
    for _ in range(2):
        fast(model, x, None, Frobenius())[1].backward()
    assert len(seen._seen) == before + 1
    assert sys.getrefcount(model) == 2
    del model
    gc.collect()
    assert len(seen._seen) == before


def test_shapes_without_end_are_not_all_kept(size, batch, watched, monkeypatch):
    monkeypatch.setattr(seen, "MOST", 2)
    model, x, _ = batch
    for samples in (2, 3, 4, 4, 2):
        fast(model, x[:samples], None, Frobenius())
    assert len(watched) == 4  # the second call with four samples is expected, with two no longer
    assert len(seen._seen[id(model)][1]) == 2


def test_names_of_nodes_are_their_own(size):
    """Grouped by type, which operations of extensions share."""
    model, x, _ = build("convnext", 3)
    outputs = model(x.requires_grad_())
    want = {}
    for node in graph.nodes(outputs):
        want.setdefault(node.name(), set()).add(node)
    assert {name: set(some) for name, some in graph.Graph(outputs).named.items()} == want
