"""A penalty leaves everything as it was: tensors, their flags, and the random numbers."""

import pytest
import torch

from tests.penalties.formulas import EXACT, PENALTIES, labelled


@pytest.mark.parametrize("name", PENALTIES)
def test_nothing_is_written(name):
    model, x, y, _ = labelled("mlp")
    logits = model(x)
    before = [t.detach().clone() for t in (logits, x, y, *model.parameters())]
    value = PENALTIES[name](logits, x, y)
    value_again = PENALTIES[name](logits, x, y)  # the graph is kept
    after = (logits, x, y, *model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(t.grad is None for t in (x, *model.parameters()))
    assert x.requires_grad
    assert x.is_leaf
    assert all(p.requires_grad for p in model.parameters())
    assert logits.requires_grad
    assert not y.requires_grad
    (value + value_again).backward()
    assert model[0].weight.grad.norm() > 0


@pytest.mark.parametrize("name", EXACT)
def test_what_is_exact_by_name_draws_nothing(name):
    model, x, y, k = labelled("mlp")
    penalty, logits, state = EXACT[name][0](k), model(x), torch.get_rng_state()
    penalty(logits, x, y)
    drawn = not torch.equal(torch.get_rng_state(), state)
    assert drawn == (" of " in name)
