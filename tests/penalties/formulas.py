"""Every penalty beside its formula, written out by hand and differentiated by torch.func."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

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
    penalties,
)
from jacfast.penalties import Penalty
from tests import public
from tests.nets import build, parameters, rows_of

Formula = Callable[[nn.Module, dict[str, Tensor], Tensor, Tensor], Tensor]


def weights(k: int) -> Tensor:
    """Return different weights of k rows, the first of them 0."""
    return torch.arange(k, dtype=torch.float64) / 3


def outputs(model: nn.Module, params: dict[str, Tensor], sample: Tensor) -> Tensor:
    """Return the logits [K] of one sample."""
    return functional_call(model, params, sample[None])[0].flatten()


def of_rows(formula: Callable[[Tensor], Tensor]) -> Formula:
    """Turn a function of J [K, D] into one of a sample."""
    return lambda model, params, sample, label: formula(rows_of(model, params, sample))


def weighted(j: Tensor) -> Tensor:
    return sum(w * (row * row).sum() for w, row in zip(weights(len(j)), j, strict=True))


def cross_lipschitz(j: Tensor) -> Tensor:
    """Return the double sum over ordered pairs, term by term."""
    return sum((a - b).square().sum() for a in j for b in j)


def input_gradient(norm: Callable[[Tensor], Tensor]) -> Formula:
    def formula(model, params, sample, label):
        def loss(s: Tensor) -> Tensor:
            return F.cross_entropy(outputs(model, params, s)[None], label[None])

        return norm(jacrev(loss)(sample))

    return formula


def decision_function(norm: Callable[[Tensor], Tensor]) -> Formula:
    def formula(model, params, sample, label):
        def margin(s: Tensor) -> Tensor:
            z = outputs(model, params, s)
            others = torch.cat([z[: int(label)], z[int(label) + 1 :]])
            return z[int(label)] - others.max()

        return norm(jacrev(margin)(sample))

    return formula


spectral = of_rows(lambda j: torch.linalg.matrix_norm(j, 2) ** 2)
frobenius = of_rows(lambda j: (j * j).sum())
entrywise = of_rows(lambda j: j.abs().sum())

# How to make the penalty for K outputs, and what it is of one sample.
EXACT: dict[str, tuple[Callable[[int], Penalty], Formula]] = {
    "frobenius": (lambda k: Frobenius("exact"), frobenius),
    "frobenius of K": (lambda k: Frobenius(k), frobenius),
    "root": (lambda k: Frobenius("exact", root=True), frobenius),
    "root of K": (lambda k: Frobenius(k, root=True), frobenius),
    "weighted": (lambda k: Frobenius("exact", weights=weights(k)), of_rows(weighted)),
    "cross-lipschitz": (lambda k: CrossLipschitz("exact"), of_rows(cross_lipschitz)),
    "cross-lipschitz of K - 1": (lambda k: CrossLipschitz(k - 1), of_rows(cross_lipschitz)),
    "input gradient": (lambda k: InputGradient(), input_gradient(lambda g: g.square().sum())),
    "input gradient, 1": (lambda k: InputGradient(1), input_gradient(lambda g: g.abs().sum())),
    "input gradient, 2": (
        lambda k: InputGradient(2),
        input_gradient(torch.linalg.vector_norm),
    ),
    "wgan-gp": (lambda k: WGANGP(), of_rows(lambda j: (j.sum(0).norm() - 1) ** 2)),
    "wgan-gp, 0.3": (lambda k: WGANGP(0.3), of_rows(lambda j: (j.sum(0).norm() - 0.3) ** 2)),
    "r1": (lambda k: R1(), of_rows(lambda j: (j.sum(0) ** 2).sum())),
    "r2": (lambda k: R2(), of_rows(lambda j: (j.sum(0) ** 2).sum())),
    "entrywise": (lambda k: EntrywiseL1("exact"), entrywise),
    "entrywise of K": (lambda k: EntrywiseL1(k), entrywise),
    "column sum": (lambda k: ColumnSumL1(), of_rows(lambda j: j.sum(0).abs().sum())),
    "decision l1": (lambda k: DecisionFunction("l1"), decision_function(lambda g: g.abs().sum())),
    "decision l2": (
        lambda k: DecisionFunction("l2"),
        decision_function(torch.linalg.vector_norm),
    ),
    "decision linf": (
        lambda k: DecisionFunction("linf"),
        decision_function(lambda g: g.abs().max()),
    ),
}
# All of them, the random and the iterated ones too, for 5 outputs.
PENALTIES: dict[str, Penalty] = {name: make(5) for name, (make, _) in EXACT.items()} | {
    "frobenius of 2": Frobenius(2),
    "weighted, of 2": Frobenius(2, weights=weights(5)),
    "cross-lipschitz of 2": CrossLipschitz(2),
    "entrywise of 2": EntrywiseL1(2),
    "spectral": Spectral(3),
}
EVERY_CLASS = [getattr(penalties, name) for name in public.PENALTIES]


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(net: str, samples: int = 3, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor, int]:
    """Return a float64 network of tests.nets, a batch, its labels, and K."""
    model, x = build(net, samples, seed=seed)
    k = 12 if net == "grid" else 5
    return model, x.requires_grad_(), torch.arange(samples) % k, k


def value_of(
    formula: Formula, root: bool, model: nn.Module, x: Tensor, y: Tensor, params
) -> Tensor:
    """Return the mean of a formula over the batch, or the root of its sum."""
    total = sum(formula(model, params, *one) for one in zip(x, y, strict=True))
    return torch.sqrt(total) if root else total / len(x)


def by_hand(name: str, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the value of a penalty by its formula, and its gradient in every parameter."""
    formula = EXACT[name][1] if name in EXACT else spectral
    value = functools.partial(value_of, formula, name.startswith("root"), model, x.detach(), y)
    params = parameters(model)
    return value(params), torch.func.grad(value)(params)
