"""The loop of a GPU, on the CPU: equal to the CPU's loop, few launches, no wait, few shapes."""

import math

import pytest
import torch
from torch import Tensor, nn

from jacfast import deepfool
from jacfast.attacks import at_once, loop, masked
from jacfast.attacks.options import PRESETS
from jacfast.calling import Call
from tests.attacks.loops import choose, part_of
from tests.nets import build, draw
from tests.testing import batch_rows

FIELDS = ("adversarial", "r", "norm", "iterations", "success", "before", "label", "stalled")
CASES = {
    "default": {},
    "paper": PRESETS["paper"],
    "foolbox": {**PRESETS["foolbox"], "clip": (-2.0, 2.0)},
    "advlib": {**PRESETS["advlib"], "clip": (-2.0, 2.0), "steps": 30},
    "art": {**PRESETS["art"], "clip": (-2.0, 2.0), "steps": 30},
    "mixed points": {"linearize": "plain", "steps": 20},
    "other mixed points": {"test": "plain", "steps": 20},
    "no overshoot": {"overshoot": 0.0, "floor": 1e-3},
    "one step": {"steps": 1},
    "three steps": {"steps": 3},
    "two classes": {"candidates": 2},
    "batches": {"batch_size": 17},
    "super": {"variant": "super"},
    "super in a box": {"variant": "super", "clip": (-2.0, 2.0)},
    "inf": {"p": math.inf},
    "3-norm": {"p": 3.0, "floor": 1e-3},
    "cap": {"max_norm": 0.2, "steps": 9},
    "cap in the maximum norm": {"max_norm": 0.05, "p": math.inf, "steps": 9},
}

# Of images and of rows, one of whose two networks has corners.
NETWORKS = [
    (name, case) for i, case in enumerate(CASES) for name in ("cnn", ("mlp", "smooth_mlp")[i % 2])
]
ON_THE_BOUNDARY = ("paper", "art", "super", "super in a box")  # where they look at the class


def both(model, x: Tensor, monkeypatch, **options):
    """Return the results of the CPU's loop and of the GPU's."""
    results = []
    for which in (False, True):
        choose(monkeypatch, masked=which)
        results.append(deepfool(model, x, **options))
    return results


def assert_same(got, want, rounded: bool = False) -> None:
    """Compare results; where roundings decide on the boundary, steps may be more or fewer there."""
    for field in FIELDS:
        a, b = getattr(got, field), getattr(want, field)
        close = {"rtol": 0, "atol": 0}
        if a.is_floating_point():
            close = {"rtol": 1e-7, "atol": 1e-3 if rounded else 1e-9}
        elif field == "iterations" and rounded:
            close = {"rtol": 0, "atol": 6}
        torch.testing.assert_close(a, b, equal_nan=True, msg=field, **close)


@pytest.mark.parametrize(("name", "case"), NETWORKS)
def test_both_loops_find_the_same(name, case, monkeypatch):
    model, x = build(name, 60)
    want, got = both(model, x.clamp(-2, 2), monkeypatch, **CASES[case])
    assert int(want.iterations.max()) >= 1
    assert_same(got, want, rounded=case in ON_THE_BOUNDARY)


@pytest.mark.parametrize("rows_on_gpu", [False, True])
def test_rows_as_a_gpu_has_them(rows_on_gpu, monkeypatch):
    """All of a sample in one batched pass, or each by itself."""
    monkeypatch.setattr(at_once, "rows_at_once", lambda _: 99 if rows_on_gpu else 1)
    batch_rows(monkeypatch, rows_on_gpu)
    model, x = build("cnn", 40)
    want, got = both(model, x, monkeypatch)
    assert_same(got, want)


@pytest.mark.parametrize("samples", [1, 2, 5, 33])
@pytest.mark.parametrize("classes", [2, 3, 10, 11, 100])
def test_any_number_of_classes_and_samples(classes, samples, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 30), nn.Tanh(), nn.Linear(30, classes)).double()
    x = draw(samples, 9)
    for options in ({}, {"candidates": None, "steps": 7}, {"candidates": 3, "p": math.inf}):
        want, got = both(model, x, monkeypatch, **options)
        assert_same(got, want)


@pytest.mark.parametrize("options", [{}, {"p": math.inf}, {"variant": "super"}, {"clip": (-3, 3)}])
def test_given_labels_of_which_some_are_wrong(options, monkeypatch):
    """Those that are fooled before the first step never move, in whatever part they are."""
    model, x = build("smooth_mlp", 40)
    x = x.clamp(-3, 3)
    predicted = model(x).argmax(dim=1)
    y = torch.where(torch.arange(40) % 4 == 0, predicted, (predicted + 1) % 5)
    want, got = both(model, x, monkeypatch, y=y, **options)
    assert_same(got, want)
    assert not got.r[torch.arange(40) % 4 != 0].any()


@pytest.mark.parametrize("options", [{}, {"p": math.inf}, {"linearize": "plain"}, {"steps": 5}])
def test_targets(options, monkeypatch):
    model, x = build("smooth_mlp", 40)
    target = (model(x).argmax(dim=1) + torch.arange(40)) % 5
    want, got = both(model, x, monkeypatch, target=target, **{"steps": 12, **options})
    assert int(want.iterations.max()) > 3
    assert_same(got, want)


@pytest.mark.parametrize("name", ["mask", "subspace", "clip"])
def test_what_has_a_tensor(name, monkeypatch):
    model, x = build("mlp", 40)
    value = {
        "mask": torch.tensor([1, 1, 0, 1, 0, 1]),
        "subspace": torch.linalg.qr(draw(6, 3, seed=9)).Q.T,
        "clip": (-1 - draw(6).abs(), 1 + draw(6, seed=4).abs()),
    }[name]
    x = x.clamp(-1, 1)
    want, got = both(model, x, monkeypatch, **{name: value})
    assert_same(got, want)


class Poisoned(nn.Module):
    """Samples with NaN or +inf at x (kinds 1, 2) or one step on (3, 4), or no gradient (5)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, first: Tensor, kind: Tensor) -> Tensor:
        z, moved = self.model(x), (x[:, 0] != first)[:, None]
        flat, second, kind = 0 * z + torch.arange(5), torch.arange(5) == 2, kind[:, None]
        z = torch.where(((kind == 1) | (kind == 3) & moved) & second, torch.nan, z)
        z = torch.where(((kind == 2) | (kind == 4) & moved) & second, torch.inf, z)
        return torch.where(kind == 5, flat, z)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"p": math.inf},
        {"clip": (-4.0, 4.0)},
        {"clip": (-4.0, 4.0), "clip_steps": True},
    ],
)
def test_broken_samples_stall_alone(options, monkeypatch):
    """Arguments of the samples go along with them, into the halves as well."""
    model, x = build("smooth_mlp", 30)
    kind = torch.arange(30) % 6
    want, got = both(Poisoned(model), x, monkeypatch, args=(x[:, 0].clone(), kind), **options)
    assert torch.equal(got.stalled, kind > 0)
    assert got.iterations[(kind == 3) | (kind == 4)].tolist() == [1] * 10
    assert not bool(got.r[(kind == 1) | (kind == 2) | (kind == 5)].any())
    assert_same(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype, monkeypatch):
    """Half types round the step twice, by 2^-8 of it at most, so that some take another turn."""
    model, x = build("smooth_mlp", 40, dtype)
    want, got = both(model, x, monkeypatch)
    assert bool(got.success.all())
    assert got.r.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    mean = [float(result.norm.double().mean()) for result in (got, want)]
    assert mean[0] == pytest.approx(mean[1], rel=tolerance)


@pytest.mark.parametrize("p", [2.0, math.inf])
def test_logits_are_subtracted_with_all_their_digits(p, either_loop):
    """Of float32 beside bfloat16 images, in which 1000.5 and 1000 are one number."""

    def model(x: Tensor) -> Tensor:
        x = x.float()
        return torch.cat([1000.5 + 0 * x, 1000 + x], dim=1)

    found = deepfool(model, torch.zeros(1, 1).bfloat16(), p=p, overshoot=0.0, steps=1)
    assert float(found.r) == pytest.approx(0.5, rel=0.01)


def test_a_step_from_the_boundary_has_its_direction():
    """At an exact tie the distance is 0, and so would be the step that the op returns."""
    model = nn.Linear(3, 2, bias=False).double()
    model.weight.data = torch.tensor([[3.0, 0, 0], [0, 4, 0]]).double()
    leaf = torch.tensor([[4.0, 3.0, 9.0]]).double().requires_grad_()
    classes, running, call = torch.tensor([[1, 0]]), torch.tensor([True]), Call(model, 1)
    search = part_of(model, leaf.detach()).search
    nearest, _ = search.nearest(call, leaf, model(leaf), classes, running)
    assert float(nearest.distance) == 0
    step = nearest.add_to(torch.zeros_like(leaf), torch.tensor([10.0]).double(), 2.0)
    torch.testing.assert_close(step, torch.tensor([[-6.0, 8.0, 0.0]]).double())


class Summed(nn.Module):
    """A network whose sums are each sample's own, so that its bits do not depend on the batch."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.stack([(x * w).sum(dim=1) for w in draw(8, 6, seed=5)], dim=1).tanh()
        return torch.stack([(wide * w).sum(dim=1) for w in draw(5, 8, seed=6)], dim=1)


@pytest.mark.parametrize("options", [{}, {"steps": 4}, {"clip": (-9.0, 9.0)}, {"p": math.inf}])
def test_bits_do_not_depend_on_the_batch(options, either_loop):
    """Of a model for which that holds: not on the size of the batch, nor on when it is halved."""
    x = draw(33, 6)
    want = deepfool(Summed(), x, **options)
    order = torch.randperm(33)
    got = deepfool(Summed(), x[order], **options)
    alone = [deepfool(Summed(), sample[None], **options).r[0] for sample in x]
    assert torch.equal(got.r, want.r[order])
    assert torch.equal(torch.stack(alone), want.r)


def exponential(x: Tensor) -> Tensor:
    """Class 0 where x > 0; each step leads by about one towards it."""
    return torch.cat([x.expm1(), 0 * x], dim=1)


def test_shapes_are_halves(monkeypatch):
    """The model sees N samples, N/2, N/4, ..., rounded up, however many are left.

    And each is told the gradient rows that it has cost, in all of them.
    """
    seen: list[int] = []
    rows, pull = [], at_once.pull_back_blocks

    def pulled(logits: Tensor, x: Tensor, v: Tensor) -> list[Tensor]:
        rows.append(len(v) * len(x))
        return pull(logits, x, v)

    monkeypatch.setattr(at_once, "pull_back_blocks", pulled)

    def model(x: Tensor) -> Tensor:
        seen.append(len(x))
        return exponential(x)

    x = torch.linspace(0.5, 20, 50).double()[torch.randperm(50), None]
    want, got = both(model, x, monkeypatch)
    assert_same(got, want)
    assert len(set(got.iterations.tolist())) > 10
    shapes = seen[-int(got.iterations.max()) - 2 :]  # of the second call
    assert set(shapes) <= {50, 25, 13, 7, 4, 2, 1}
    assert len(set(shapes)) >= 4
    assert int(got.vjps.sum()) == sum(rows)


def test_no_step_beyond_the_last():
    """In whatever iteration of a run a sample comes to it."""
    part = part_of(exponential, torch.tensor([[10.0], [9.0]]).double(), steps=4)
    part.left[1] = 2
    for _ in range(6):
        part.step(*part.evaluate())
    assert part.iterations.tolist() == [4, 4]
    torch.testing.assert_close(
        part.walk.r[:, 0], torch.tensor([-4.0, -2.0]).double(), rtol=0.1, atol=0
    )
    assert not bool(part.running.any() | part.stalled.any())


@pytest.mark.parametrize("size", range(1, 20))
def test_halves_hold_what_is_left(size):
    for left in range(1, size + 1):
        got = masked.halved(size, left)
        assert left <= got <= size
        assert got == 1 or -(-got // 2) < left


def test_rows_that_do_not_fit_take_the_other_loop(monkeypatch):
    model, x = build("mlp", 20)
    want, _ = both(model, x, monkeypatch)
    monkeypatch.setattr(loop, "run_masked", None)  # a call would raise
    monkeypatch.setattr(loop, "ROOM", 5 * x.numel() - 1)
    assert_same(deepfool(model, x), want)
    monkeypatch.setattr(loop, "ROOM", 5 * x.numel())
    with pytest.raises(TypeError, match="not callable"):
        deepfool(model, x)


def test_on_a_cpu_samples_leave(monkeypatch):
    monkeypatch.setattr(loop, "run_masked", None)  # a call would raise
    model, x = build("mlp", 20)
    assert bool(deepfool(model, x).success.any())


class Curved(nn.Module):
    """Boundaries at x = 1 (kind 0), nowhere (1) or at 2 (2), there farther for a batch of 40."""

    def forward(self, x: Tensor) -> Tensor:
        t, kind = x.unbind(dim=1)
        curved = 1 - torch.exp(2 - t) - 1.5e-3 * (len(x) == 40)
        f = torch.where(kind == 0, t - 1, torch.where(kind == 1, -torch.exp(-t), curved))
        return torch.stack([-f, f], dim=1)


def test_who_is_out_of_steps_takes_nobodys_place(monkeypatch):
    """One that only the whole batch sees not fooled goes on, beside many that may not."""
    x = torch.zeros(40, 2).double()
    x[20:, 1], x[-1, 1] = 1, 2
    mask = torch.tensor([1, 0])
    want, got = both(Curved(), x, monkeypatch, steps=9, overshoot=0.0, floor=1e-3, mask=mask)
    assert_same(got, want)
    assert got.success.tolist() == [True] * 20 + [False] * 19 + [True]
    assert got.iterations.tolist()[18:22] == [1, 1, 9, 9]
