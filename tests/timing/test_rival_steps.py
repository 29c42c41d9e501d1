"""The rivals' steps, where more is known than that they agree."""

import torch
import torch._dynamo.config
from torch import nn
from torch._dynamo.utils import counters

from jacfast.timing import rivals


def test_more_models_than_pytorchs_limit_are_each_compiled(monkeypatch):
    """Beyond it, which is eight, PyTorch runs a function uncompiled: the time would be wrong."""
    compile_by = torch.compile
    monkeypatch.setattr(torch, "compile", lambda step: compile_by(step, backend="eager"))
    x, y, made = torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), []
    few = {"recompile_limit": 1, "accumulated_recompile_limit": 1}
    with torch._dynamo.config.patch(few):
        for width in range(3, 6):
            model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))
            before = counters["frames"]["ok"]
            step = rivals.compiled_func(2)
            step(model, x, y, 0.1)
            step(model, x, y, 0.1)
            made.append(counters["frames"]["ok"] - before)
    assert made == [1] * 3


def test_frozen_parameters_get_no_gradient(monkeypatch):
    compile_by = torch.compile
    monkeypatch.setattr(torch, "compile", lambda step: compile_by(step, backend="eager"))
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    rivals.compiled_func(2)(model, torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), 0.1)
    assert [p.grad is None for p in model.parameters()] == [False, True, False, False]
