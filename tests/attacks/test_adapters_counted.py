"""A benchmark's model, which counts the passes of each sample: it sees every one of ours."""

from functools import partial

import pytest
import torch
from torch import nn

from jacfast import deepfool, minimal_norm
from jacfast.attacks.adapters import for_attackbench
from jacfast.attacks.options import PRESETS
from tests.nets import build


class Watched(nn.Module):
    """Counts the passes of each of `given`, whichever of them are asked for, and how often.

    It knows a sample by the nearest of those given, as AttackBench's model does, and counts in
    tensors of its own, backward passes by a hook of the network.
    """

    def __init__(self, inner: nn.Module, given: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.given = inner, given
        self.forwards, self.backwards = (torch.zeros(len(given), dtype=torch.long) for _ in "fb")
        inner.register_full_backward_hook(self._back)

    def forward(self, x):
        apart = torch.cdist(x.flatten(1), self.given.flatten(1))
        self.asked = apart.argmin(dim=1)
        self.forwards.index_add_(0, self.asked, torch.ones_like(self.asked))
        return self.inner(x)

    def _back(self, module, grad_input, grad_output):
        self.backwards.index_add_(0, self.asked, torch.ones_like(self.asked))
        return grad_input


def images():
    model, x = build("cnn", 12)
    x = x.sigmoid()
    return model, x, model(x).argmax(dim=1)


@pytest.mark.parametrize("norm", [2, float("inf")])
def test_passes_of_minimal_norm_are_those_that_it_tells(norm):
    model, x, y = images()
    want = minimal_norm.result(model, x, y, p=norm, budget=40)
    watched = Watched(model, x)
    got = for_attackbench(watched, x, y, attack="minimal_norm", norm=norm, budget=40)
    assert torch.equal(watched.forwards, want.forwards)
    assert torch.equal(watched.backwards, want.backwards)
    assert int(watched.backwards.min()) > 4  # the rows of the first point, and more
    torch.testing.assert_close(got, want.adversarial)


@pytest.mark.parametrize("norm", [2, float("inf")])
def test_passes_of_deepfool_are_those_that_it_tells(norm):
    model, x, y = images()
    want = deepfool(model, x, y, **{**PRESETS["advlib"], "p": norm})
    watched = Watched(model, x)
    for_attackbench(watched, x, y, norm=norm)
    assert torch.equal(watched.backwards, want.vjps)
    assert int(watched.forwards.min()) >= 2


def test_a_model_that_answers_no_more_ends_the_attack():
    """Beyond a limit AttackBench's model gives logits that say nothing: no error comes of it."""

    class Limited(Watched):
        def forward(self, x):
            z = super().forward(x)
            spent = self.forwards + self.backwards >= 12
            return torch.where(spent[self.asked].unsqueeze(1), 0 * z, z)

    model, x, y = images()
    for attack in (for_attackbench, partial(for_attackbench, attack="minimal_norm")):
        got = attack(Limited(model, x), x, y)
        assert bool(((got >= 0) & (got <= 1)).all())
        model._backward_hooks.clear()
