"""The timed step of `jacfast harden`: on which models it runs, what it leaves, what it says."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.timing import rivals
from jacfast.training.step_time import time_steps
from jacfast.training.table import _step
from tests.training.problem import problem

NUMBERS = {"plain", "jacfast", "loop", "speedup", "images"}


class Frozen(nn.Sequential):
    """The first layer is not trained."""

    def __init__(self):
        super().__init__(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        self[0].requires_grad_(False)


class Named(nn.Linear):
    """Returns its logits in a dictionary, beside something else."""

    def forward(self, x):
        return {"logits": super().forward(x), "features": x}


class Attention(nn.Linear):
    """By the fused kernel, which has no second derivative."""

    def forward(self, x):
        rows = x[:, None, :, None].repeat(1, 1, 1, 4)
        seen = F.scaled_dot_product_attention(rows, rows, rows)
        return super().forward(seen.mean(dim=(1, 3)))


class InPlace(nn.Linear):
    """Begins with an operation in place."""

    def forward(self, x):
        return super().forward(x.sub_(0.5).tanh())


class Noisy(nn.Linear):
    """Draws in eval mode, too."""

    def forward(self, x):
        return super().forward(x + torch.randn_like(x)).square()


KINDS = {
    "frozen": Frozen,
    "named": lambda: Named(5, 3),
    "attention": lambda: Attention(5, 3),
    "in place": lambda: InPlace(5, 3),
    "noisy": lambda: Noisy(5, 3),
    "script": lambda: torch.jit.script(nn.Linear(5, 3)),
}


@pytest.mark.parametrize("n", [1, "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind_are_timed(kind, n):
    torch.manual_seed(0)
    model = KINDS[kind]().double().eval()
    times = time_steps(model, torch.randn(8, 5).double(), torch.arange(8) % 3, n=n, repeats=2)
    assert times.keys() == NUMBERS, times
    assert times["speedup"] == times["loop"] / times["jacfast"]
    assert min(times[name] for name in NUMBERS) > 0


def test_all_is_left_as_it_was():
    model, x, y = problem()
    model.train()
    held = torch.ones(3)
    model[-1].bias.grad = held
    before, images = torch.get_rng_state(), x.clone()
    assert time_steps(model, x, y, n=1, repeats=2)["images"] == 30
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, images)
    assert model.training
    assert [p.grad for p in model.parameters()] == [None, None, None, held]
    assert bool((held == 1).all())


def test_steps_that_disagree_have_no_time(monkeypatch):
    model, x, y = problem()
    monkeypatch.setattr(rivals, "looped_penalty", lambda logits, x: logits.sum() * 0)
    times = time_steps(model, x, y, n=1)
    assert times.keys() == {"images", "why"}
    assert "the penalised steps must agree; their gradients are " in times["why"]
    words = _step({"step": times, "options": {"n": 1}})
    assert words == f"one training step of 30 images is not timed; {times['why']}"
