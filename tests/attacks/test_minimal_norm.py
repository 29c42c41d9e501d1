"""minimal_norm: the shortest perturbation, its budget and its box."""

import math

import pytest
import torch
from torch import nn

import jacfast
from tests.nets import build, draw


class Passes(nn.Module):
    """A network that counts its samples' forward passes, by the rows of the batches it sees."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, 0, 0

    def forward(self, x):
        self.forwards += len(x)
        z = self.inner(x)
        if z.requires_grad:
            z.register_hook(self._count)
        return z

    def _count(self, g):
        self.backwards += len(g)


def images(name: str, samples: int = 12):
    model, x = build(name, samples=samples)
    return model, x.sigmoid()


def linear(classes: int = 4, size: int = 8, samples: int = 20):
    """Return a linear network, inputs, and the distances of its boundaries without a box."""
    model = nn.Linear(size, classes).double()
    model.weight.data = draw(classes, size)
    model.bias.data = -model.weight.data.sum(1) / 2 + draw(classes) / 20
    x = draw(samples, size).div(20).add(0.5)
    z = model(x).detach()
    y = z.argmax(1)
    f = z.gather(1, y[:, None]) - z
    w = (model.weight.data[y][:, None] - model.weight.data).norm(dim=2)
    return model, x, y, (f / w).scatter(1, y[:, None], math.inf)


def test_linear_networks_have_the_distance_of_the_formula():
    model, x, _, distance = linear()
    found = jacfast.minimal_norm.result(model, x, clip=None)
    assert bool(found.success.all())
    torch.testing.assert_close(found.norm, distance.amin(1), rtol=2e-3, atol=0)
    assert bool((found.norm >= distance.amin(1)).all())


@pytest.mark.parametrize(("p", "dual"), [(1.0, math.inf), (math.inf, 1.0)])
def test_other_norms_of_linear_networks(p, dual):
    model, x, y, _ = linear()
    found = jacfast.minimal_norm.result(model, x, p=p, clip=None)
    z = model(x).detach()
    f = z.gather(1, y[:, None]) - z
    w = torch.linalg.vector_norm(model.weight.data[y][:, None] - model.weight.data, dual, dim=2)
    want = (f / w).scatter(1, y[:, None], math.inf).amin(dim=1)
    assert bool(found.success.all())
    torch.testing.assert_close(found.norm, want, rtol=3e-2 if p == 1 else 3e-3, atol=0)
    assert bool((found.norm >= want).all())


def test_the_1_norm_of_linear_networks_in_the_box():
    """A continuous knapsack: entries go to the end of the box, in the order of what they bring."""
    model, x, y, _ = linear(classes=2, size=300)
    found = jacfast.minimal_norm.result(model, x, p=1)
    assert bool(found.success.all())
    z = model(x).detach()
    for i, own in enumerate(y):
        w = model.weight.data[1 - own] - model.weight.data[own]
        room = torch.where(w > 0, 1 - x[i], x[i])
        order = w.abs().argsort(descending=True)
        brought = (w.abs() * room)[order].cumsum(0)
        full = int((brought < z[i, own] - z[i, 1 - own]).sum())
        rest = z[i, own] - z[i, 1 - own] - (brought[full - 1] if full else 0)
        want = float(room[order][:full].sum() + rest / w.abs()[order[full]])
        assert 1 - 1e-6 <= float(found.norm[i]) / want < 1.02


def test_targets_of_linear_networks():
    """Where only the target and one class meet, its distance; else not less than that."""
    model, x, y, distance = linear(classes=2)
    found = jacfast.minimal_norm.result(model, x, target=1 - y, clip=None)
    torch.testing.assert_close(found.norm, distance.amin(1), rtol=2e-3, atol=0)
    model, x, y, distance = linear(classes=5)
    target = (y + 1) % 5
    found = jacfast.minimal_norm.result(model, x, target=target, clip=None)
    assert bool(found.success.all())
    assert torch.equal(model(found.adversarial).argmax(1), target)
    assert bool((found.norm >= distance.gather(1, target[:, None])[:, 0]).all())


@pytest.mark.parametrize("budget", [5, 6, 13, 101])
@pytest.mark.parametrize("classes", [2, 40])
def test_the_budget_is_never_passed(budget, classes):
    counted = Passes(nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, classes)).double())
    x = torch.rand(40, 6, dtype=torch.float64)  # rows of so many are computed one by one
    ones = torch.ones(40, dtype=torch.int64)
    for more in ({}, {"start": torch.rand_like(x)}, {"target": ones}):
        counted.forwards = counted.backwards = 0
        found = jacfast.minimal_norm.result(counted, x, budget=budget, candidates=None, **more)
        assert counted.forwards == int(found.forwards.sum())
        assert counted.backwards == int(found.backwards.sum())
        assert int((found.forwards + found.backwards).max()) <= budget


@pytest.mark.parametrize(
    ("classes", "options", "rows"),
    [
        (40, {"candidates": 3}, 2),
        (40, {"candidates": 10}, 9),
        (40, {"candidates": None}, 24),  # a quarter of the budget but for the first pass and last
        (40, {"candidates": 30}, 24),
        (40, {"candidates": 10, "budget": 20}, 4),
        (5, {"candidates": None}, 4),
    ],
)
def test_each_candidate_but_one_is_a_row_at_x(classes, options, rows):
    """Samples of another class from the start cost nothing else."""
    model, x = nn.Linear(6, classes).double(), torch.rand(40, 6, dtype=torch.float64)
    y, counted = (model(x).argmax(dim=1) + 1) % classes, Passes(model)
    found = jacfast.minimal_norm.result(counted, x, y, **options)
    assert found.backwards.tolist() == [rows] * 40
    assert found.forwards.tolist() == [2] * 40
    assert (counted.backwards, counted.forwards) == (40 * rows, 40 * 2)


def test_who_is_of_another_class_from_the_start_looks_at_no_start():
    model, x = nn.Linear(6, 5).double(), torch.rand(8, 6, dtype=torch.float64)
    y, counted = (model(x).argmax(dim=1) + 1) % 5, Passes(model)
    found = jacfast.minimal_norm.result(counted, x, y, start=torch.rand_like(x))
    assert found.forwards.tolist() == [2] * 8
    assert counted.forwards == 8 * 2


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_who_gains_no_more_leaves(p):
    """An overshoot halved from 2% gains a thousandth in seven looks; after eight more it ends."""
    model, x, _, _ = linear(classes=2)
    for budget in (100, 400):
        found = jacfast.minimal_norm.result(model, x, p=p, clip=None, budget=budget)
        assert bool(found.success.all())
        assert int((found.forwards + found.backwards).max()) <= 3 + 2 * (7 + 8)


@pytest.mark.parametrize("name", ["cnn", "mlp", "smooth_mlp", "layer_norm_gelu", "attention"])
def test_the_box_holds_and_the_class_changes(name):
    model, x = images(name)
    low = x.amin(0) - 0.02
    high = x.amax(0) + 0.02
    for clip in ((0.0, 1.0), (low, high), None):
        found = jacfast.minimal_norm.result(model, x, clip=clip)
        moved = found.adversarial
        if clip is not None:
            assert bool(((moved >= clip[0]) & (moved <= clip[1])).all())
        assert torch.equal(model(moved).argmax(1) != model(x).argmax(1), found.success)
        torch.testing.assert_close(found.norm, (moved - x).flatten(1).norm(dim=1))
        assert torch.equal(found.r[~found.success], torch.zeros_like(x)[~found.success])
    torch.testing.assert_close(moved, jacfast.minimal_norm(model, x, clip=clip), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["cnn", "mlp", "smooth_mlp", "layer_norm_gelu"])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_not_longer_than_deepfool(name, clip):
    model, x = images(name, samples=24)
    theirs = jacfast.deepfool(model, x, clip=clip, candidates=None)
    ours = jacfast.minimal_norm.result(model, x, clip=clip)
    both = theirs.success & (theirs.norm > 0)
    assert bool(ours.success[theirs.success].all())
    assert float((ours.norm / theirs.norm)[both].max()) <= 1
    started = jacfast.minimal_norm.result(model, x, clip=clip, start=theirs.adversarial, budget=20)
    z = model(theirs.adversarial).sort(dim=1).values
    sure = theirs.success & (z[:, -1] - z[:, -2] > 1e-12)  # one may end on the boundary itself
    assert int(sure.sum()) > 10
    assert bool((started.norm <= theirs.norm * (1 + 1e-12))[sure].all())


@pytest.mark.parametrize("name", ["cnn", "smooth_mlp"])
def test_the_maximum_norm(name):
    model, x = images(name, samples=5)
    counted = Passes(model)
    theirs = jacfast.deepfool(model, x, p=math.inf, clip=(0.0, 1.0), candidates=None)
    ours = jacfast.minimal_norm.result(counted, x, p=math.inf, budget=60)
    assert int((ours.forwards + ours.backwards).max()) <= 60
    assert counted.forwards == int(ours.forwards.sum())
    moved = ours.adversarial
    assert bool(((moved >= 0) & (moved <= 1)).all())
    torch.testing.assert_close(ours.norm, (moved - x).flatten(1).abs().amax(dim=1))
    both = theirs.success & (theirs.norm > 0)
    assert bool(ours.success[theirs.success].all())
    assert float((ours.norm / theirs.norm)[both].max()) <= 1.001


@pytest.mark.parametrize("name", ["cnn", "smooth_mlp"])
def test_the_1_norm_is_shorter_than_that_of_the_2_norms_images(name):
    """For most samples, as both are searches; and fewer entries are changed."""
    model, x = images(name, samples=24)
    theirs = jacfast.minimal_norm.result(model, x)
    ours = jacfast.minimal_norm.result(model, x, p=1)
    sizes = [found.r.flatten(1).abs().sum(dim=1) for found in (ours, theirs)]
    assert bool(ours.success[theirs.success].all())
    torch.testing.assert_close(ours.norm, sizes[0])
    ratio = (sizes[0] / sizes[1])[ours.success]
    assert float(ratio.median()) < 0.8
    assert float((ratio < 1).double().mean()) > 0.9
    assert float((ours.r.abs() > 1e-6).double().mean()) < 0.5


@pytest.mark.parametrize("name", ["cnn", "smooth_mlp"])
def test_the_scale_of_the_logits_plays_no_part(name):
    model, x = images(name)
    want = jacfast.minimal_norm(model, x)
    for scale in (100.0, 1e-12, 1e12):
        got = jacfast.minimal_norm(lambda a, scale=scale: scale * model(a), x)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_more_passes_are_not_longer():
    model, x = images("smooth_mlp", samples=30)
    runs = [jacfast.minimal_norm.result(model, x, budget=b) for b in (20, 50, 200)]
    means = [float(found.norm[found.success].mean()) for found in runs]
    assert all(bool(found.success.all()) for found in runs[1:])
    assert means[1] >= 0.999 * means[2]


@pytest.mark.parametrize(("seed", "most"), [(1, 1.1), (4, 0.96)])
def test_deep_networks_which_are_like_their_cuts_nearby_alone(seed, most):
    """Lengths beside DDN's of ten times the passes: steps of one size were 1.3 and 1.1 as long."""
    torch.manual_seed(seed)
    wide = [layer for _ in range(9) for layer in (nn.Linear(48, 48), nn.ReLU())]
    model = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), *wide, nn.Linear(48, 4)).double()
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(layer.bias, std=0.2)
    x = torch.rand(60, 20, dtype=torch.float64)
    other = jacfast.ddn.result(model, x, steps=1000)
    assert bool(other.success.all())
    for budget in (100, 200):
        found = jacfast.minimal_norm.result(model, x, budget=budget)
        assert bool(found.success.all())
        assert float((found.norm / other.norm)[found.success].mean()) < most


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_far_targets_are_reached_where_others_reach_them(p):
    """Behind two bent boundaries three cuts from x led round in circles, whatever the budget."""
    torch.manual_seed(2)
    layers = [layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for layer in model[:-1:2]:
        layer.weight.data *= 2 * 3**0.5
    x = torch.rand(20, 64)
    target = (model(x).argmax(1) + 1) % 10
    other = jacfast.ddn.result(model, x, target=target, steps=50)
    assert int(other.success.sum()) >= 19
    found = jacfast.minimal_norm.result(model, x, target=target, p=p, budget=100)
    assert bool((found.success | ~other.success).all())
    if p == 2:
        ratio = found.norm / other.norm
        assert float(ratio[other.success].mean()) < 1


def test_a_start_that_is_no_other_class_does_no_harm():
    model, x = images("cnn")
    want = jacfast.minimal_norm.result(model, x, budget=100)
    got = jacfast.minimal_norm.result(model, x, budget=102, start=x)
    assert torch.equal(got.success, want.success)
    assert float((got.norm / want.norm)[want.success].mean()) < 1.02


def test_misclassified_samples_do_not_move():
    model, x = images("cnn")
    y = model(x).argmax(1)
    y[::2] = (y[::2] + 1) % 5
    found = jacfast.minimal_norm.result(model, x, y)
    assert torch.equal(found.adversarial[::2], x[::2])
    assert bool(found.success[::2].all())
    assert torch.equal(found.before, y)
    assert int(found.forwards[0]) == 2


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize(
    "options", [{}, {"target": torch.tensor([1, 2, 3])}], ids=["leave", "reach"]
)
@pytest.mark.parametrize("tie", [False, True])
def test_no_gradient_no_change(p, options, tie):
    model = nn.Sequential(nn.Linear(6, 3), nn.Threshold(1e9, 0.0), nn.Linear(3, 4)).double()
    model[-1].bias.data = 0 * draw(4) if tie else torch.tensor([1.0, 0.5, 0, -1]).double()
    x = torch.rand(3, 6, dtype=torch.float64)
    found = jacfast.minimal_norm.result(model, x, p=p, **options)
    assert torch.equal(found.adversarial, x)
    assert not bool(found.success.any())


def test_save_load_and_summary(tmp_path):
    model, x = images("cnn")
    found = jacfast.minimal_norm.result(model, x)
    found.save(tmp_path / "a.safetensors")
    again = jacfast.MinimalNormResult.load(tmp_path / "a.safetensors")
    assert all(torch.equal(found.tensors()[name], again.tensors()[name]) for name in found.names())
    assert "backward passes per sample" in found.summary()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"budget": 4}, ValueError, "budget must be >= 5; got 4"),
        ({"budget": 50.0}, TypeError, "budget must be an integer"),
        ({"p": 3}, ValueError, "p must be one of 1, 2, inf; got 3"),
        ({"candidates": 1}, ValueError, "candidates must be >= 2"),
        ({"start": torch.zeros(3)}, ValueError, "start must have the shape of x"),
        ({"start": 3}, TypeError, "start must be a torch.Tensor; got int"),
        ({"start": torch.zeros(12, 2, 8, 8).long()}, TypeError, "got torch.int64"),
        ({"clip": (0.9, 1.0)}, ValueError, "x must lie in the box"),
        ({"y": torch.zeros(12).long(), "target": torch.zeros(12).long()}, ValueError, "got both"),
    ],
)
def test_errors(options, error, words):
    model, x = images("cnn")
    with pytest.raises(error, match=words):
        jacfast.minimal_norm(model, x, **options)
    with pytest.raises(ValueError, match="start must lie in the box"):
        jacfast.minimal_norm(model, x, start=x + 3)
