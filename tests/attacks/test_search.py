"""Skipping candidates that cannot be the nearest changes the cost, not the result."""

import pytest
import torch
from torch import nn

from jacfast import data, deepfool, models
from jacfast.attacks import search
from jacfast.attacks.options import Options
from jacfast.calling import Call
from jacfast.lipschitz import gradient_bound
from tests.nets import build, draw

FIELDS = ("adversarial", "norm", "iterations", "success", "label", "stalled")
CASES = {
    "default": {},
    "box": {"clip": (-2.0, 2.0), "floor": 1e-4},
    "clipped steps": {"clip": (-2.0, 2.0), "clip_steps": True},
    "all, plain": {"candidates": None, "linearize": "plain", "test": "plain"},
    "mixed points": {"linearize": "plain", "steps": 20},
    "super": {"variant": "super"},
    "batches": {"batch_size": 17},
}


def both(model, x, monkeypatch, **options):
    """Attack without skipping and with it, also where it is not worth its cost."""
    monkeypatch.setattr(search, "WORTH", float("inf"))
    want = deepfool(model, x, **options)
    monkeypatch.setattr(search, "WORTH", 0)
    return want, deepfool(model, x, **options)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_result_is_the_same(name, case, monkeypatch):
    model, x = build(name, 60)
    want, got = both(model, x.clamp(-2, 2), monkeypatch, **CASES[case])
    for field in FIELDS:
        a, b = getattr(want, field), getattr(got, field)
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12, msg=field)
    assert bool((got.vjps <= want.vjps).all())


def test_a_mask_only_adds_to_the_distances(monkeypatch):
    model, x = build("mlp", 40)
    mask = torch.tensor([1, 1, 0, 1, 0, 1])
    want, got = both(model, x, monkeypatch, mask=mask)
    torch.testing.assert_close(got.r, want.r)


def test_digits_in_a_box_cost_less_than_half(monkeypatch):
    """Many steps end near the boundary, where one candidate is far nearer than the others."""
    torch.manual_seed(0)
    model, x = models.seck_c().eval(), data.load(None).test_x[:50]
    torch.nn.init.normal_(model[-1].weight, std=0.3)
    want, got = both(model, x, monkeypatch, clip=(0.0, 1.0), clip_steps=True)
    torch.testing.assert_close(got.r, want.r)
    assert torch.equal(got.label, want.label)
    assert 2 * int(got.vjps.sum()) < int(want.vjps.sum())


@pytest.mark.parametrize("target", [False, True])
def test_a_bound_that_is_too_low_would_show(target, monkeypatch):
    """The samples' nearest classes differ from those of the lowest bound: see them missed."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 8)).double(), draw(80, 6)
    monkeypatch.setattr(
        search, "gradient_bound", lambda *_: torch.full((8, 8), 1e-6, dtype=torch.float64)
    )
    options = {"clip": (-0.5, 0.5)} if not target else {"target": torch.zeros(80).long()}
    want, got = both(model, x.clamp(-0.5, 0.5), monkeypatch, steps=6, **options)
    same = torch.allclose(want.r, got.r)
    assert same == target  # with one candidate there is nothing to skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_skips_nothing(dtype, monkeypatch):
    model, x = build("mlp", 20)
    want, got = both(model.to(dtype), x.to(dtype), monkeypatch)
    assert torch.equal(got.vjps, want.vjps)
    assert torch.equal(got.r, want.r)


def test_without_a_finite_bound_nothing_is_skipped(monkeypatch):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(108, 6)).double()
    model[-1].weight.data[1] = model[-1].weight.data[0]  # two classes that differ by a constant
    want, got = both(model, draw(20, 2, 6, 6), monkeypatch, clip=(-5.0, 5.0))
    assert torch.equal(got.vjps, want.vjps)
    assert torch.equal(got.r, want.r)


def test_a_bound_that_is_not_finite_is_computed_once(monkeypatch):
    asked, endless = [], torch.full((3, 3), float("inf"))
    monkeypatch.setattr(search, "gradient_bound", lambda *given: asked.append(1) or endless)
    searcher = plain_search(nn.Sequential(nn.Linear(2, 3)), 1)
    for _ in range(2):
        searcher.learn(torch.ones(1, 2), 10**6)
    assert (asked, searcher.bound) == ([1], None)


def test_rows_of_logits_are_not_taken_for_classes(monkeypatch):
    """A last layer that gives each of three classes its logit: one row of weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    want, got = both(model, draw(40, 3, 4), monkeypatch, steps=5)
    assert torch.equal(got.vjps, want.vjps)
    assert torch.equal(got.r, want.r)


def test_with_one_candidate_no_bound_is_computed(monkeypatch):
    model, x = build("mlp", 30)
    monkeypatch.setattr(search, "WORTH", 1)
    monkeypatch.setattr(search, "gradient_bound", None)  # a call would raise
    deepfool(model, x, target=torch.zeros(30).long(), steps=5)
    with pytest.raises(TypeError, match="not callable"):
        deepfool(model, x, clip=(-9.0, 9.0), clip_steps=True, overshoot=0.0)


def test_autocast_and_many_classes_skip_nothing(monkeypatch):
    model, x = build("mlp", 40)
    monkeypatch.setattr(search, "gradient_bound", None)  # a call would raise
    monkeypatch.setattr(search, "WORTH", 0)
    with torch.autocast("cpu", torch.bfloat16):
        deepfool(model.float(), x.float(), steps=4)
    monkeypatch.setattr(search, "CLASSES", 4)
    deepfool(model, x.float(), steps=4, clip=(-9.0, 9.0), clip_steps=True, overshoot=0.0)


def plain_search(model, samples):
    choices = dict.fromkeys(("candidates", "clip", "max_norm", "mask", "subspace"))
    choices |= {"overshoot": 0.02, "steps": 5, "floor": 0.0, "clip_steps": False, "p": 2.0}
    options = Options(**choices, linearize="plain", test="plain")
    return search.Search(Call(model, samples), options)


def test_what_was_found_stays_when_samples_leave_by_and_by(monkeypatch):
    """Row by row, by bounds whose order is not that of the distances."""
    monkeypatch.setattr(search, "rows_at_once", lambda leaf: 1)
    model, x = nn.Sequential(nn.Linear(5, 12)).double(), draw(64, 5)
    w = model[0].weight.data.copy_(draw(12, 5, seed=2) * draw(12, 1, seed=3).exp())
    searcher, leaf = plain_search(model, 64), x.requires_grad_()
    norm = (w[:, None] - w).norm(dim=2)
    searcher.bound = norm * (1 + draw(12, 12, seed=4) ** 4)
    z, everyone = model(leaf), torch.arange(12)
    origin = z.argmax(dim=1)
    others = torch.stack([everyone[everyone != one] for one in origin])
    classes, running = torch.cat([others, origin[:, None]], dim=1), torch.ones(64) > 0
    nearest, rows = searcher.nearest(Call(model, 64), leaf, z, classes, running)
    far = (z.max(dim=1, keepdim=True).values - z).detach() / norm[origin]  # NaN for the origin
    want = far.nan_to_num(nan=float("inf")).min(dim=1)
    torch.testing.assert_close(nearest.distance, want.values)
    assert torch.equal(nearest.winner, want.indices)
    assert len(rows.unique()) > 2  # they left at two times or more


def test_of_classes_that_all_tie_the_lowest_still_wins():
    """At x four logits are equal: every distance is zero, and so is the least of each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4)).double()
    model[0].bias.data.zero_()
    searcher = plain_search(model, 1)
    searcher.bound = gradient_bound(searcher.layers, torch.zeros(1, 5, dtype=torch.float64))
    leaf = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    for order in ([1, 2, 3], [3, 2, 1], [2, 3, 1]):
        classes, running = torch.tensor([[*order, 0]]), torch.tensor([True])
        nearest, rows = searcher.nearest(Call(model, 1), leaf, model(leaf), classes, running)
        assert int(nearest.winner) == 1
        assert int(rows) == 3


def test_other_norms_skip_nothing(monkeypatch):
    model, x = build("mlp", 20)
    want, got = both(model, x, monkeypatch, p=float("inf"))
    assert torch.equal(got.vjps, want.vjps)
