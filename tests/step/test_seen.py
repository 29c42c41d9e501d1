"""A model whose last call was PyTorch's own throughout: the next is not watched, and alike."""

import contextlib
import gc
import sys

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from jacfast import graph, penalties
from jacfast.calling import Arguments
from jacfast.lean import attention
from jacfast.penalties import EntrywiseL1, Frobenius, InputGradient
from jacfast.step import seen
from jacfast.step.attach import Around
from jacfast.step.step import Step
from tests.step.networks import build
from tests.step.steps import assert_same, fast, plain, step
from tests.step.switching import Net

pytestmark = pytest.mark.parametrize("size", ["small"])


# Of three calls, how many are watched: each one, if more than one row is pulled back.
WATCHED = {
    Frobenius(): 1,
    Frobenius(root=True): 1,
    Frobenius(reduction="none"): 1,
    penalties.CrossLipschitz(): 1,
    InputGradient(): 1,
    InputGradient(norm=1): 1,
    penalties.DecisionFunction(): 1,
    penalties.ColumnSumL1(): 1,
    penalties.WGANGP(0.5): 1,
    penalties.R1(): 1,
    penalties.R2(): 1,
    penalties.Spectral(): 1,
    Frobenius(subsample=0.4): 1,
    InputGradient(norm=1, subsample=0.4): 1,
    EntrywiseL1(): 3,
    Frobenius("exact"): 3,
}


@pytest.mark.parametrize(("penalty", "times"), WATCHED.items(), ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_later_calls_have_the_bits_of_the_first(penalty, times, dtype, size, switching, watched):
    model, x, y = switching[0].to(dtype), switching[1].to(dtype), switching[2]
    x = x.to(memory_format=torch.channels_last)
    mean = fast if penalty.reduction == "mean" else _mean
    calls = [step(mean, model, x, y, penalty) for _ in range(3)]
    assert len(watched) == times
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
def test_a_call_of_another_kind_is_watched(change, size, switching, watched):
    model, x, y = switching
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


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("penalty", [Frobenius(), InputGradient(norm=1)], ids=repr)
def test_attention_runs_as_it_did_when_it_was_watched(
    fused, penalty, size, switching, watched, monkeypatch
):
    model, x, y = switching
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


def test_shapes_without_end_are_not_all_kept(size, switching, watched, monkeypatch):
    monkeypatch.setattr(seen, "MOST", 2)
    model, x, _ = switching
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


class Second(nn.Module):
    """x is its second argument."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, ids=None, x=None):
        assert ids is None
        return self.layer(x)


def test_x_is_passed_by_its_name_in_later_calls_too(size):
    model, x = Second(), torch.rand(4, 3)
    calls = [Step(Frobenius())(model, x, None, Around((), {"x": x}, "x")) for _ in range(3)]
    assert all(torch.equal(logits, calls[0][0]) for logits, _ in calls)


def test_a_context_around_the_call_holds_in_later_calls_too(size):
    entered, model, x = [], Second(), torch.rand(4, 3)
    model.forward = model.layer.forward  # of x alone

    @contextlib.contextmanager
    def around():
        entered.append(1)
        yield

    for _ in range(3):
        Step(Frobenius(), around=around)(model, x, None, Arguments(samples=4))
    assert len(entered) == 3
