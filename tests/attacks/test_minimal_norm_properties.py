"""minimal_norm: what holds in every norm, to leave a class or to reach one, in any batch."""

import math

import pytest
import torch

import jacfast
from jacfast.attacks import hunt
from tests.attacks.test_minimal_norm import Passes, images
from tests.nets import build

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
    for wanted in wishes(model, x).values():

        def attack(here, wanted=wanted):
            more = {name: classes[here] for name, classes in wanted.items()}
            return jacfast.minimal_norm.result(model, x[here], p=p, budget=40, **more)

        all_of_them = torch.arange(14)
        want = attack(all_of_them)
        parts = [all_of_them.flip(0), *all_of_them.split(7), *all_of_them[:3].split(1)]
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
    want = jacfast.minimal_norm(model, x, p=p)
    for power in (-20, 7, 14):
        got = jacfast.minimal_norm(lambda z, power=power: model(z) * 2.0**power, x, p=p)
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
        for budget in (5, 17, 100):
            found = jacfast.minimal_norm.result(
                model, x, p=p, start=start.adversarial, budget=budget, **wanted
            )
            assert bool(found.success[sure].all())
            assert bool((found.norm <= size * (1 + 1e-5))[sure].all())
