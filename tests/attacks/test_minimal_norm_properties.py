"""minimal_norm: what holds in every norm, to leave a class or to reach one, in any batch."""

import math

import pytest
import torch

import jacfast
from jacfast.attacks import first_cuts, hunt
from tests.attacks.test_minimal_norm import Passes, images
from tests.nets import build, draw

NORMS = pytest.mark.parametrize("p", [1.0, 2.0, math.inf])


def wishes(model, x) -> dict[str, dict]:
    """Return what may be wanted: to leave the class or a given one, to reach the second, third."""
    first, second, third = model(x).detach().topk(3).indices.T
    return {
        "predicted": {},
        "labels": {"y": torch.where(torch.arange(len(x)) % 2 == 0, first, second)},
        "second": {"target": second},
        "third": {"target": third},
    }


@NORMS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("budget", [5, 6, 17, 40])
def test_box_and_budget(p, dtype, budget):
    model, x = build("cnn", 9, dtype)
    high = torch.tensor([0.6, 1.0], dtype=dtype).view(2, 1, 1)
    x = torch.minimum((2 * x).sigmoid(), high)  # many on the face of the first channel
    for wanted in wishes(model, x).values():
        counted = Passes(model)
        found = jacfast.minimal_norm.result(
            counted, x, p=p, budget=budget, clip=(0, high), **wanted
        )
        moved, rest = found.adversarial, ~found.success
        assert bool(((moved >= 0) & (moved <= high)).all())
        assert counted.forwards == int(found.forwards.sum())
        assert int((found.forwards + found.backwards).max()) <= budget
        assert torch.equal(moved[rest], x[rest])
        if budget >= 17:
            assert int(found.success.sum()) >= 7


@NORMS
def test_a_sample_has_the_same_result_in_any_batch(p, monkeypatch):
    model, x = images("cnn", samples=14)
    every = wishes(model, x)
    for name in every if p == 2 else ("labels", "third"):  # a norm knows of no wish

        def attack(here, wanted=every[name]):
            more = {name: classes[here] for name, classes in wanted.items()}
            return jacfast.minimal_norm.result(model, x[here], p=p, budget=40, **more)

        all_of_them = torch.arange(14)
        want = attack(all_of_them)
        parts = [all_of_them.flip(0), *all_of_them.split(7), all_of_them[2:3]]
        for here in parts:
            got = attack(here)
            torch.testing.assert_close(got.norm, want.norm[here], rtol=1e-9, atol=0)
            assert torch.equal(got.success, want.success[here])
            assert torch.equal(got.forwards, want.forwards[here])
        with monkeypatch.context() as patch:
            patch.setattr(hunt, "AT_ONCE", 5)
            torch.testing.assert_close(attack(all_of_them).norm, want.norm, rtol=1e-9, atol=0)


@NORMS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logits_times_a_power_of_two_change_no_bit(p, dtype):
    """Saturated softmaxes: nothing rounds in another way, so nothing may differ at all."""
    model, x = build("cnn", 12, dtype)
    x = x.sigmoid()
    want = jacfast.minimal_norm(model, x, p=p, budget=40)
    for power in (-20, 7, 14):

        def scaled(z, power=power):
            return model(z) * 2.0**power

        got = jacfast.minimal_norm(scaled, x, p=p, budget=40)
        assert torch.equal(got, want)
    assert bool((want != x).flatten(1).any(dim=1).all())


@NORMS
def test_pixels_a_rounding_outside_of_the_box(p):
    """Images that move come into it; as if they had been there, but for that rounding."""
    model, x = build("cnn", 9, torch.float32)
    inside = (3 * x).sigmoid().clamp(0.2, 0.8)
    beyond = torch.where(inside == 0.2, inside.new_tensor(0.2 - 2e-8), inside)
    beyond = torch.where(inside == 0.8, inside.new_tensor(0.8 + 6e-8), beyond)
    assert int((beyond != inside).sum()) > 100
    want = jacfast.minimal_norm.result(model, inside, p=p, clip=(0.2, 0.8))
    got = jacfast.minimal_norm.result(model, beyond, p=p, clip=(0.2, 0.8))
    moved = got.adversarial[got.success]
    assert bool(((moved >= inside.min()) & (moved <= inside.max())).all())
    torch.testing.assert_close(got.norm, want.norm, rtol=1e-3, atol=0)


@NORMS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_longer_than_the_start(p, dtype):
    """From images well beyond the boundary, whatever the budget; targeted, too."""
    model, x = build("cnn", 16, dtype)
    x = x.sigmoid()
    for wanted in wishes(model, x).values():
        start = jacfast.deepfool(model, x, p=max(p, 2.0), clip=(0.0, 1.0), overshoot=0.2, **wanted)
        size = torch.linalg.vector_norm(start.r.flatten(1), p, dim=1)
        largest, next_one = model(start.adversarial).topk(2).values.T
        sure = start.success & (largest - next_one > 1e-4)  # a box may stop it on the boundary
        assert int(sure.sum()) >= 8
        for budget in (5, 17, 40):
            found = jacfast.minimal_norm.result(
                model, x, p=p, start=start.adversarial, budget=budget, **wanted
            )
            assert bool(found.success[sure].all())
            assert bool((found.norm <= size * (1 + 1e-5))[sure].all())


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_how_many_rows_are_computed_at_once_plays_no_part(at_once, monkeypatch):
    """The order of the classes by their logits is not that of their boundaries."""
    model = torch.nn.Linear(6, 12).double()
    model.weight.data = draw(12, 6) * torch.linspace(0.1, 3, 12).double()[:, None]
    model.bias.data = torch.linspace(1.2, 1, 12).double() - model.weight.data.sum(dim=1) / 2
    x = 0.5 + draw(20, 6, seed=2) / 50

    def attack():
        return jacfast.minimal_norm.result(model, x, budget=60, candidates=None)

    want = attack()
    monkeypatch.setattr(first_cuts, "rows_at_once", lambda leaf: at_once)
    got = attack()
    torch.testing.assert_close(got.norm, want.norm, rtol=1e-9, atol=0)
    assert torch.equal(got.label, want.label)


@NORMS
@pytest.mark.parametrize("kind", ["beyond the box", "without a gradient"])
@pytest.mark.parametrize("width", [1.0, 1e-4])
def test_a_boundary_that_cannot_be_reached_is_not_headed_for(p, kind, width):
    """The second class is nearer than the first, or has no distance; one lane has to do.

    By how much the box misses a boundary is judged by its distance, whatever the units.
    """

    def model(x):
        x = x / width
        near = 4 * (x[:, 0] - 1.05) if kind == "beyond the box" else 0 * x[:, 0] - 0.01
        return torch.stack([0 * near, x[:, 1] - 0.8, near], dim=1)

    x = width * torch.tensor([[0.95, 0.5, 0.5]], dtype=torch.float64)
    found = jacfast.minimal_norm.result(model, x, p=p, budget=10, clip=(0.0, width))
    assert found.success.tolist() == [True]
    assert found.label.tolist() == [1]
    assert 0.3 < float(found.norm) / width < 0.31


@NORMS
def test_an_impossible_class_plays_no_part_in_the_race(p):
    model, x = images("smooth_mlp", samples=12)
    masked = lambda z: torch.nn.functional.pad(model(z), (0, 1), value=-math.inf)  # noqa: E731
    choices = {"p": p, "budget": 40, "candidates": 3}
    want = jacfast.minimal_norm(model, x, **choices)
    got = jacfast.minimal_norm(masked, x, **choices)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
    assert bool((want != x).any())


def test_a_point_with_an_infinite_logit_is_no_other_class():
    """All that lies on the way to a boundary beyond the box."""

    def model(x):
        first = x[:, :1]
        return torch.cat([0 * first, torch.where(first > 0.6, math.inf, first - 1.5)], dim=1)

    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    found = jacfast.minimal_norm.result(model, x, budget=40)
    assert found.success.tolist() == [False]
    assert torch.equal(found.adversarial, x)


def test_a_start_that_wins_by_a_rounding_alone_is_not_taken():
    """Another class must win by four epsilons, in what is returned as well."""
    model, x = build("cnn", 12)
    x = x.sigmoid()
    far = jacfast.minimal_norm.result(model, x)
    low, high = torch.zeros(12).double(), torch.ones(12).double()
    for _ in range(80):  # to the boundary itself
        middle = (low + high) / 2
        there = model(x + middle.view(-1, 1, 1, 1) * far.r).argmax(dim=1) != far.before
        low, high = torch.where(there, low, middle), torch.where(there, middle, high)
    start = (x + high.view(-1, 1, 1, 1) * far.r).requires_grad_()
    z = model(start).sort(dim=1).values.detach()
    least = 4 * torch.finfo(torch.float64).eps * z.abs().amax(dim=1)
    assert int((z[:, -1] - z[:, -2] <= least).sum()) >= 6
    found = jacfast.minimal_norm.result(model, x, start=start, budget=20)
    assert not found.adversarial.requires_grad
    z = model(found.adversarial).sort(dim=1).values
    assert bool(found.success.all())
    assert bool((z[:, -1] - z[:, -2] > least / 2).all())


def test_the_classes_that_were_left_are_no_view_of_those_given():
    model, x = build("cnn", 4)
    y = model(x).argmax(dim=1)
    found = jacfast.minimal_norm.result(model, x.sigmoid(), y, budget=6)
    want = y.clone()
    y.zero_().sub_(1)
    assert torch.equal(found.before, want)
