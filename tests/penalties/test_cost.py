"""What a penalty costs: backward passes through the model, and the largest tensor it makes."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import jacfast.vjp
from jacfast import (
    R1,
    R2,
    WGANGP,
    ColumnSumL1,
    CrossLipschitz,
    DecisionFunction,
    EntrywiseL1,
    Frobenius,
    InputGradient,
    Spectral,
)
from jacfast.penalties import Penalty

INPUTS, SAMPLES = 6, 40  # more samples than are batched over projections

PASSES = {
    "frobenius": (Frobenius(1), 1),
    "frobenius of 3": (Frobenius(3), 3),
    "weighted": (Frobenius(1, weights=torch.ones(100)), 1),
    "cross-lipschitz": (CrossLipschitz(1), 1),
    "cross-lipschitz of 3": (CrossLipschitz(3), 3),
    "entrywise of 1": (EntrywiseL1(1), 1),
    "entrywise": (EntrywiseL1(), 100),
    "column sum": (ColumnSumL1(), 1),
    "input gradient": (InputGradient(), 1),
    "input gradient, 1": (InputGradient(1), 1),
    "wgan-gp": (WGANGP(), 1),
    "r1": (R1(), 1),
    "r2": (R2(), 1),
    "decision function": (DecisionFunction("l2"), 1),
    "spectral": (Spectral(3), 1 + 3 + 1),  # one to differentiate again, each iteration, the value
}


class Counted(torch.autograd.Function):
    """The identity, counting its backward passes."""

    passes = 0

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        Counted.passes += 1
        return g.clone()


class Largest(TorchDispatchMode):
    """Notes the number of entries of the largest result of an op."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor):
                self.entries = max(self.entries, one.numel())
        return result


def outputs(k: int, samples: int = SAMPLES) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, k))
    x = torch.randn(samples, INPUTS, requires_grad=True)
    return model, x, model(Counted.apply(x))


@pytest.mark.parametrize("name", PASSES)
def test_backward_passes_to_x(name, monkeypatch):
    penalty, want = PASSES[name]
    _, x, logits = outputs(100)
    monkeypatch.setattr(Counted, "passes", 0)
    penalty(logits, x, torch.arange(SAMPLES))
    assert Counted.passes == want


@pytest.mark.parametrize("k", [100, 1000])
@pytest.mark.parametrize("penalty", [Frobenius(1), CrossLipschitz(1)], ids=["frobenius", "cross"])
def test_one_projection_is_one_product_whatever_the_number_of_outputs(penalty, k, monkeypatch):
    """Also in a small batch, where several would share one call."""
    calls, grad = [], jacfast.vjp.grad

    def counting(outputs, x, cotangent, *options, **named) -> Tensor:
        calls.append(tuple(cotangent.shape))
        return grad(outputs, x, cotangent, *options, **named)

    monkeypatch.setattr(jacfast.vjp, "grad", counting)
    for samples in (3, SAMPLES):
        _, x, logits = outputs(k, samples)
        monkeypatch.setattr(Counted, "passes", 0)
        penalty(logits, x)
        assert calls == [(samples, k)]
        assert Counted.passes == 1
        calls.clear()


def largest(penalty: Penalty, k: int) -> int:
    model, x, logits = outputs(k)
    with Largest() as seen:
        penalty(logits, x).backward()
    assert model[0].weight.grad.norm() > 0
    return seen.entries


def test_pairs_of_outputs_are_never_held():
    """Neither all pairs of outputs nor all rows of a sample: n N K entries at most."""
    for penalty in (CrossLipschitz(1), CrossLipschitz(2), Frobenius(2)):
        assert largest(penalty, 1000) == penalty.n * SAMPLES * 1000
    assert largest(CrossLipschitz("exact"), 100) == 100 * SAMPLES * 100
