"""The passes that benchmarks.minimal_norm prints."""

import pytest
import torch
from torch import nn

import jacfast
from benchmarks.minimal_norm import Counted
from jacfast import models

CNN = (nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 144, 10))


@pytest.mark.parametrize("samples", [1, 8, 20, 40])
@pytest.mark.parametrize("make", [models.seck_c, lambda: nn.Sequential(*CNN)], ids=["mlp", "cnn"])
def test_every_row_of_every_sample_is_counted(make, samples):
    counted = Counted(make().eval().requires_grad_(False))
    x, forward = torch.rand(samples, 1, 28, 28), [0]
    counted.register_forward_hook(lambda _module, given, _out: forward.append(len(given[0])))
    found = jacfast.deepfool(counted, x, candidates=None, clip=(0.0, 1.0))
    rows = int(found.vjps.sum())
    assert rows > 3 * samples
    assert counted.passes == sum(forward) + rows


def test_a_loop_of_backward_passes_and_batched_ones_count_the_same():
    counted = [Counted(models.seck_c().requires_grad_(False)) for _ in range(3)]
    x, v = torch.rand(5, 1, 28, 28, requires_grad=True), torch.randn(3, 5, 10)
    logits = [each(x) for each in counted]
    for row in v:
        torch.autograd.grad(logits[0], x, row, retain_graph=True)
    torch.autograd.grad(logits[1], x, v, is_grads_batched=True)
    torch.func.vmap(lambda row: torch.autograd.grad(logits[2], x, row), in_dims=1)(v.movedim(0, 1))
    assert [each.passes for each in counted] == [20, 20, 20]
