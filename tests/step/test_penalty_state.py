"""A penalty that keeps something from step to step: a start vector, a running mean, a counter."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jacfast import forward_with_penalty
from jacfast.calling import parts
from jacfast.penalties import Penalty


class Kept(nn.Module):
    """A running mean of the logits, in a buffer that each call replaces, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(3).double())
        self.calls = 0

    def forward(self, logits: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(0)
        self.calls += 1
        return self.mean * self.calls


@dataclasses.dataclass(frozen=True)
class Along(Penalty):
    """``mean_i ||J(x_i)^T m||^2`` for the running mean m, which a module keeps, or a dictionary."""

    kept: Any = None
    squared = True

    def cotangents(self, logits, x, y, draw):
        return self._mean(logits).expand_as(logits)[None]

    def _mean(self, logits: Tensor) -> Tensor:
        if isinstance(self.kept, nn.Module):
            return self.kept(logits)
        self.kept["mean"] = 0.9 * self.kept["mean"] + 0.1 * logits.detach().mean(0)
        self.kept["calls"] += 1
        return self.kept["mean"] * self.kept["calls"]


@dataclasses.dataclass(frozen=True)
class Steady(Penalty):
    """``mean_i (||J(x_i)^T 1||^2 - m)^2``, m the running mean of these sizes: path lengths."""

    kept: Any = None

    def cotangents(self, logits, x, y, draw):
        return torch.ones_like(logits)[None]

    def measure(self, g: Tensor) -> Tensor:
        sizes = g.square().sum(1)
        self.kept["mean"] = 0.9 * self.kept["mean"] + 0.1 * sizes.detach().mean()
        self.kept["calls"] += 1
        return (sizes - self.kept["mean"]).square()


def held() -> dict[str, Any]:
    return {"mean": torch.ones(3).double(), "calls": 0}


KINDS = {"module": lambda: Along(Kept()), "dict": lambda: Along(held())}
BOTH = {**KINDS, "measure": lambda: Steady({"mean": torch.tensor(1.0).double(), "calls": 0})}


def now(penalty: Any) -> tuple[int, list[float]]:
    kept = vars(penalty.kept) if isinstance(penalty.kept, nn.Module) else penalty.kept
    mean = penalty.kept.mean if isinstance(penalty.kept, nn.Module) else kept["mean"]
    return kept["calls"], mean.tolist()


def by_hand(model: nn.Module, batches: list[Tensor]) -> list[float]:
    """Return what `Along` is in each step, by plain autograd."""
    mean, found = torch.ones(3).double(), []
    for calls, x in enumerate(batches, 1):
        x = x.clone().requires_grad_()
        logits = model(x)
        mean = 0.9 * mean + 0.1 * logits.detach().mean(0)
        (g,) = torch.autograd.grad(logits, x, (mean * calls).expand_as(logits))
        found.append(float(g.square().sum() / len(x)))
    return found


@pytest.fixture
def given():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).double()
    return model, [torch.randn(12, 6).double() for _ in range(4)]


@pytest.mark.filterwarnings("ignore:forward_with_penalty runs eager")
@pytest.mark.parametrize("options", [{}, {"compiled": "traced"}], ids=["eager", "traced"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_it_is_one(given, kind, options) -> None:
    model, batches = given
    penalty = KINDS[kind]()
    found = [forward_with_penalty(model, x, penalty=penalty, **options)[1] for x in batches]
    assert [value.item() for value in found] == pytest.approx(by_hand(model, batches), rel=1e-12)
    assert now(penalty)[0] == 4


def test_why_it_is_not_recorded_is_said(given) -> None:
    model, batches = given
    with pytest.warns(UserWarning, match="because of the call changes kept of a"):
        forward_with_penalty(model, batches[0], penalty=Along(held()), compiled="traced")


@pytest.mark.parametrize("kind", BOTH)
def test_a_batch_is_not_cut(given, kind) -> None:
    model, batches = given
    penalty = BOTH[kind]()
    before = now(penalty)
    with pytest.raises(ValueError, match=r"chunk_size must be the whole batch, 12, .* a penalty"):
        forward_with_penalty(model, batches[0], penalty=penalty, chunk_size=4)
    assert now(penalty) == before


@pytest.mark.parametrize("kind", BOTH)
def test_a_large_batch_is_not_cut_of_itself(given, kind, monkeypatch) -> None:
    monkeypatch.setattr(parts, "BYTES", 1)
    monkeypatch.setattr(parts, "LEAST", 4)
    model, batches = given
    penalty = BOTH[kind]()
    forward_with_penalty(model, batches[0], penalty=penalty)
    assert now(penalty)[0] == 1


class Keeps(nn.Module):
    """A model that a penalty's module is saved with; it may call that itself."""

    def __init__(self, calls: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3)
        self.layers, self.kept, self.calls = nn.Sequential(*layers), Kept(), calls

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layers(x)
        return logits * self.kept(logits) if self.calls else logits


SECOND = {"frozen": {"batch_norm": "frozen"}, "frozen, at": {"batch_norm": "frozen", "at": 0.5}}


@pytest.mark.parametrize("calls", [False, True], ids=["the penalty's", "of both"])
@pytest.mark.parametrize("way", SECOND)
def test_second_passes_leave_it_what_it_keeps_in_the_model(given, way, calls) -> None:
    (_, batches), model = given, Keeps(calls).double()
    hand = Keeps(calls).double()
    for x in batches:
        options = SECOND[way] | ({"at": x / 2} if "at" in SECOND[way] else {})
        _, found = forward_with_penalty(model, x, penalty=Along(model.kept), **options)
        before = copy.deepcopy(hand.kept)
        hand(x)
        after = copy.deepcopy(hand.kept)
        hand.kept = before if calls else hand.kept
        at = options.get("at", x).clone().requires_grad_()
        logits = hand.eval()(at)
        v = hand.kept(logits).expand_as(logits)
        (g,) = torch.autograd.grad(logits, at, v)
        hand.kept = after if calls else hand.kept
        hand.train()
        assert found.item() == pytest.approx(float(g.square().sum() / len(x)), rel=1e-12)
        assert now(Along(model.kept)) == now(Along(hand.kept))
