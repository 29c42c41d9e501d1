"""Bad arguments of the penalties, and options that do not fit them, are refused in words."""

import re

import pytest
import torch
from torch import nn

from jacfast import (
    CrossLipschitz,
    DecisionFunction,
    EntrywiseL1,
    Frobenius,
    InputGradient,
)
from tests.penalties.formulas import EVERY_CLASS, PENALTIES, labelled

LABELLED = {"InputGradient": InputGradient(), "DecisionFunction": DecisionFunction()}


@pytest.fixture
def batch():
    """Return logits [3, 5], their x [3, 6] and labels [3]."""
    model, x, y, _ = labelled("mlp")
    return model(x), x, y


def refuses(kind: type[Exception], text: str):
    return pytest.raises(kind, match=re.escape(text))


@pytest.mark.parametrize("kind", [Frobenius, EntrywiseL1])
def test_n_out_of_range(batch, kind):
    with refuses(ValueError, "n must be in 1 .. K = 5, or 'exact'; got 6"):
        kind(6)(*batch)


def test_n_out_of_range_of_the_centred_space(batch):
    with refuses(ValueError, "n must be in 1 .. K - 1 = 4, or 'exact'; got 5"):
        CrossLipschitz(5)(*batch)


@pytest.mark.parametrize("kind", [Frobenius, CrossLipschitz, EntrywiseL1])
def test_n_that_is_never_right_is_refused_when_the_penalty_is_made(kind):
    for n in (True, 1.0, 2.5, "all", None):
        with refuses(TypeError, f"n must be an integer, or 'exact'; got {n!r}"):
            kind(n)
    for n in (0, -1):
        with refuses(ValueError, f"n must be >= 1, or 'exact'; got {n}"):
            kind(n)


@pytest.mark.parametrize("name", LABELLED)
def test_labels(batch, name):
    logits, x, y = batch
    penalty = LABELLED[name]
    with refuses(ValueError, f"y must be given: {name} depends on the labels"):
        penalty(logits, x)
    with refuses(TypeError, "y must be an int64 tensor; got torch.int32"):
        penalty(logits, x, y.int())
    with refuses(TypeError, "y must be an int64 tensor; got torch.float64"):
        penalty(logits, x, y.double())
    with refuses(TypeError, "y must be an int64 tensor; got list"):
        penalty(logits, x, y.tolist())
    with refuses(ValueError, "y must have shape [N] = [3]; got [2]"):
        penalty(logits, x, y[:2])
    with refuses(ValueError, "y must have shape [N] = [3]; got [3, 1]"):
        penalty(logits, x, y[:, None])
    for low, high in ((-1, 4), (0, 5)):
        with refuses(ValueError, f"y must lie in 0 .. K - 1 = 4; got {low} .. {high}"):
            penalty(logits, x, torch.tensor([low, high, 3]))


@pytest.mark.parametrize("penalty", [Frobenius(), CrossLipschitz()])
def test_labels_that_are_not_needed(batch, penalty):
    """A number there was meant as n, perhaps; `forward_with_penalty` refuses them, too."""
    logits, x, y = batch
    assert penalty(logits, x, y) > 0
    with refuses(TypeError, "y must be an int64 tensor; got int"):
        penalty(logits, x, 4)
    with refuses(ValueError, "y must have shape [N] = [3]; got [2]"):
        penalty(logits, x, y[:2])


@pytest.mark.parametrize("n", [1, "exact"])
def test_weights_of_another_number_of_outputs(batch, n):
    with refuses(ValueError, "weights must have shape [K] = [5]; got [4]"):
        Frobenius(n, weights=torch.ones(4))(*batch)


def test_one_class_has_no_decision_function(batch):
    _, x, _ = batch
    logits = nn.Linear(6, 1).double()(x)
    with refuses(ValueError, "logits must have K >= 2 classes; got 1"):
        DecisionFunction()(logits, x, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("name", PENALTIES)
def test_x_outside_the_graph(batch, name):
    logits, x, y = batch
    with refuses(ValueError, "x must be part of the graph of the outputs"):
        PENALTIES[name](logits, x.detach().clone().requires_grad_(), y)
    with refuses(ValueError, "x must require grad before the model is called"):
        PENALTIES[name](logits, x.detach(), y)
    with refuses(ValueError, "logits must be part of a graph"):
        PENALTIES[name](logits.detach(), x, y)


@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp", "vmap"])
@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_torch_func_transforms(kind, transform):
    model, x, y, _ = labelled("mlp")
    calls = {
        "grad": lambda penalty: torch.func.grad(penalty)(x),
        "vjp": lambda penalty: torch.func.vjp(penalty, x),
        "jvp": lambda penalty: torch.func.jvp(penalty, (x,), (x,)),
        "vmap": lambda penalty: torch.func.vmap(penalty)(x[None]),
    }
    with refuses(RuntimeError, "call it outside torch.func.grad/vjp/vmap/jvp"):
        calls[transform](lambda x: kind()(model(x), x, y))
