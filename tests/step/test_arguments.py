"""forward_with_penalty: bad arguments are refused in words."""

import re

import pytest
import torch

from jacfast import (
    CrossLipschitz,
    Frobenius,
    InputGradient,
    forward_with_penalty,
    frobenius_penalty,
)
from tests.step.networks import build


def refuses(kind: type[Exception], text: str):
    return pytest.raises(kind, match=re.escape(text))


@pytest.fixture
def mlp():
    """Return the network, its batch and labels."""
    return build("mlp")


ARGUMENTS = {
    "penalty": (
        TypeError,
        {"penalty": 1.0},
        "penalty must be a jacfast Penalty, as Frobenius(); got float",
    ),
    "penalty's class": (
        TypeError,
        {"penalty": Frobenius},
        "penalty must be a jacfast Penalty, as Frobenius(); got Frobenius",
    ),
    "a function in its place": (
        TypeError,
        {"penalty": frobenius_penalty},
        "penalty must be a jacfast Penalty, as Frobenius(); got frobenius_penalty",
    ),
    "generator": (
        TypeError,
        {"penalty": Frobenius("exact"), "generator": 3},
        "generator must be a torch.Generator; got int",
    ),
    "at's type": (TypeError, {"at": [1.0]}, "at must be a torch.Tensor; got list"),
    "at's dtype": (
        TypeError,
        {"at": torch.ones(4, 12, dtype=torch.int64)},
        "at must be floating point (scale images to [0, 1]; of token ids",
    ),
    "at's length": (
        ValueError,
        {"at": torch.ones(3, 12)},
        "at must have as many samples as x (4); got 3",
    ),
    "step": (
        ValueError,
        {"penalty": Frobenius(every=3)},
        "step must be given for a penalty with every=3; got None",
    ),
    "a fraction of an epoch": (
        TypeError,
        {"penalty": Frobenius(every=3), "step": 1.5},
        "step must be an integer; got 1.5",
    ),
    "a step that is a tensor": (
        TypeError,
        {"penalty": Frobenius(every=3), "step": torch.tensor(3.0)},
        "step must be an integer; got 3.0",
    ),
    "a step that is a bool": (
        TypeError,
        {"penalty": Frobenius(every=3), "step": True},
        "step must be an integer; got True",
    ),
    "a negative step": (
        ValueError,
        {"penalty": Frobenius(every=3), "step": -1},
        "step must be >= 0; got -1",
    ),
    "precision": (
        ValueError,
        {"precision": torch.float32},
        "precision must be torch.bfloat16 or torch.float16; got torch.float32",
    ),
    "batch_norm": (
        ValueError,
        {"batch_norm": "no"},
        "batch_norm must be one of refuse, frozen, coupled; got 'no'",
    ),
    "chunk_size": (ValueError, {"chunk_size": 0}, "chunk_size must be >= 1; got 0"),
    "layer": (ValueError, {"layer": "5"}, "one of 0, 1, 2, 3, 4; got '5'"),
    "y's type": (TypeError, {"y": [0, 1, 2, 3]}, "y must be an int64 tensor; got list"),
    "y's dtype": (TypeError, {"y": torch.ones(4)}, "y must be an int64 tensor; got torch.float32"),
    "y's shape": (
        ValueError,
        {"y": torch.ones(3, dtype=torch.int64)},
        "y must have shape [N] = [4]; got [3]",
    ),
    "y's range": (
        ValueError,
        {"y": torch.tensor([0, 1, 2, 5]), "penalty": InputGradient()},
        "y must lie in 0 .. K - 1 = 4; got 0 .. 5",
    ),
    "no y": (
        ValueError,
        {"penalty": InputGradient()},
        "y must be given: InputGradient depends on the labels",
    ),
    "too many projections": (
        ValueError,
        {"penalty": Frobenius(6)},
        "n must be in 1 .. K = 5, or 'exact'; got 6",
    ),
    "too many centred projections": (
        ValueError,
        {"penalty": CrossLipschitz(5)},
        "n must be in 1 .. K - 1 = 4, or 'exact'; got 5",
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(mlp, name):
    kind, options, text = ARGUMENTS[name]
    with refuses(kind, text):
        forward_with_penalty(mlp[0], mlp[1], **options)


def test_x(mlp):
    model, x, _ = mlp
    with refuses(TypeError, "x must be a torch.Tensor; got list"):
        forward_with_penalty(model, [[1.0]])
    with refuses(TypeError, "x must be floating point (scale images to [0, 1]); got torch.uint8"):
        forward_with_penalty(model, x.to(torch.uint8))
    for empty in (x[:0], x[0]):
        with refuses(
            ValueError, f"x must be a non-empty batch [N, ...]; got shape {[*empty.shape]}"
        ):
            forward_with_penalty(model, empty)
