"""A model that begins in place: x stays as it is, and J is where x was, in every kind of step."""

import copy

import pytest
import torch
from torch import Tensor, nn

from jacfast import Frobenius, InputGradient
from tests.nets import relative_error
from tests.step.steps import ROUNDING, fast, gradient, loss_of
from tests.step.test_attach import attached

CASES = {
    "as it is": {},
    "chunks": {"chunk_size": 2},
    "traced": {"compiled": "traced"},
    "at x itself": {"at": "x"},
    "elsewhere": {"at": 0.5},
    "bfloat16": {"precision": torch.bfloat16},
    "frozen batch-norm": {"batch_norm": "frozen"},
    "frozen batch-norm, traced": {"batch_norm": "frozen", "compiled": "traced"},
    "a layer": {"layer": "1"},
    "a step without": {"step": 1},
    "no penalty": {"penalty": None},
}


def build(batch_norm: bool) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(7) if batch_norm else nn.Identity()
    layers = (nn.Linear(6, 7), middle, nn.Tanh(), nn.Linear(7, 5))
    return nn.Sequential(nn.SiLU(inplace=True), *layers).double().train()


def options_of(case: str, x: Tensor) -> dict:
    found = {"penalty": InputGradient(), **CASES[case]}
    if "at" in found:
        found["at"] = x if found["at"] == "x" else found["at"] * x
    if "step" in found:
        found["penalty"] = Frobenius(every=2)
    return found


@pytest.mark.parametrize("way", [fast, attached])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_x_stays_as_it_is(case, wanted, way, size):
    model = build(CASES[case].get("batch_norm") == "frozen")
    beside = copy.deepcopy(model)
    beside[0].inplace = False
    x, y, found = torch.randn(4, 6).double(), torch.arange(4), []
    for one in (model, beside):
        root = x.clone().requires_grad_(wanted)
        options = options_of(case, root.detach() if case == "at x itself" else x.clone())
        logits, value = way(one, root, y, options.pop("penalty"), **options)
        assert torch.equal(root, x)
        rest = [root] if wanted else []
        found.append((logits, value, gradient(loss_of(logits, value, y), one, *rest)))
    for got, want in zip(*found, strict=True):
        assert relative_error(got, want) < ROUNDING
