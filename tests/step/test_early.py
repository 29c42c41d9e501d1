"""Options that are kept for later calls are refused when they are given."""

import pytest
import torch
from torch import nn

from jacfast import Frobenius, WithPenalty
from jacfast.integrations import common

SHARED = {
    "layer": ({"layer": 3}, TypeError, "layer must be the name of a submodule; got 3"),
    "precision": ({"precision": torch.float32}, ValueError, "precision must be .*; got torch.fl"),
    "batch_norm": ({"batch_norm": "a"}, ValueError, "batch_norm must be one of .*; got 'a'"),
    "chunk_size": ({"chunk_size": "a"}, TypeError, "chunk_size must be an integer; got 'a'"),
    "generator": ({"generator": 0}, TypeError, "generator must be a torch.Generator; got int"),
    "output": ({"output": 1.5}, TypeError, "output must be a name, an index or None; got 1.5"),
}
OWN = {
    "no option": ({"m": 1}, TypeError, "options must be among at, .*; got m$"),
    "compiled": ({"compiled": "a"}, ValueError, "compiled must be one of .*; got 'a'"),
    "args": ({"args": "a"}, TypeError, "args must be a tuple"),
    "kwargs": ({"kwargs": [1]}, TypeError, "kwargs must hold arguments by name"),
    "penalty": ({"penalty": 0.1}, TypeError, "penalty must be a jacfast Penalty, .*; got float"),
}


@pytest.mark.parametrize("case", {**SHARED, **OWN}.values(), ids=[*SHARED, *OWN])
def test_a_module_with_a_penalty(case):
    options, kind, words = case
    with pytest.raises(kind, match=words):
        WithPenalty(nn.Linear(2, 3), **options)


@pytest.mark.parametrize("case", SHARED.values(), ids=SHARED)
def test_integrations(case):
    options, kind, words = case
    with pytest.raises(kind, match=words):
        common.check(Frobenius(), options)


def test_another_penalty_and_another_model():
    pair = WithPenalty(nn.Linear(2, 3))
    with pytest.raises(TypeError, match=r"penalty must be a jacfast Penalty, .*; got str"):
        pair.penalty = "a"
    pair.penalty = None
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module.*got function"):
        WithPenalty(lambda x: x)
    with pytest.raises(TypeError, match="model must not be a DataParallel"):
        WithPenalty(nn.DataParallel(nn.Linear(2, 3)))
