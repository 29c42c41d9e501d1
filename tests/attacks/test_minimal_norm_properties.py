"""minimal_norm: what holds in every norm, to leave a class or to reach one, in any batch."""

import math

import pytest
import torch

import jacfast
from jacfast.attacks import first_cuts, hunt, lanes
from jacfast.attacks.box import Box
from jacfast.attacks.frame import Frame
from jacfast.attacks.losses import Criterion
from jacfast.calling import Call
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


def test_the_bookkeeping_of_a_lane():
    """As `minimal_norm` says: halved, doubled, a little more, a fifth less; eight looks in vain."""
    r = torch.ones(1, 3, dtype=torch.float64)
    lane = lanes.Lanes.begin(torch.tensor([0]), torch.tensor([1]), r)

    def look(size, wanted=True):
        was = float(lane.overshoot), float(lane.damp)
        lane.look(r * size, torch.tensor([size], dtype=r.dtype), torch.tensor([wanted]))
        return float(lane.overshoot) / was[0], float(lane.damp) / was[1], int(lane.stale)

    for _ in range(20):
        assert look(1.0, wanted=False)[1:] == (1, 0)  # who has found nothing stays
    assert look(1.0) == (0.5, 1, 0)
    assert look(0.9) == (0.5, pytest.approx(1.1), 0)
    assert look(0.8, wanted=False) == (2, pytest.approx(0.8), 1)
    assert look(0.95) == (0.5, pytest.approx(0.8), 2)
    assert float(lane.size) == 0.9
    small = [look(0.9 * (1 - 4e-4) ** n)[2] for n in range(1, 7)]
    assert small == [3, 4, 0, 1, 2, 0]  # three gains of 0.04% are one of 0.1%


def test_of_the_race_the_shortest_goes_on_or_who_has_the_least_to_go():
    """Two lanes each of three samples: both have found, the second alone has, none has."""
    x = torch.zeros(3, 2, dtype=torch.float64)
    nobody, zeros = torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    race = hunt.Hunt(Call(torch.relu, 3), Frame(x, Box(), 2, 1e-16), Criterion(zeros), nobody)
    some = lanes.Lanes.begin(torch.arange(3).repeat_interleave(2), torch.arange(6), x)
    ahead = torch.tensor([1, 2, 1, 2, 2, 1]).double()
    some.cut(some.best, -ahead, torch.tensor([[1, 0]]).double().expand(6, 2))
    some.size = torch.tensor([5, 4, math.inf, 9, math.inf, math.inf]).double()
    assert race._winners(some, 2).label.tolist() == [1, 3, 5]


def test_cuts_that_exclude_the_best_point_are_dropped_and_the_last_three_kept():
    like = torch.zeros(1, 2, dtype=torch.float64)
    lane = lanes.Lanes.begin(torch.tensor([0]), torch.tensor([1]), like)
    for c in (1.0, 2.0, 3.0, 4.0):  # r_0 >= c, by a gradient of length 2
        lane.cut(like, torch.tensor([-2 * c]).double(), torch.tensor([[2.0, 0.0]]).double())
    lane.drop()
    assert lane.c.tolist() == [[2, 3, 4]]
    assert lane.w.tolist() == [[[1, 0]] * 3]
    lane.look(torch.tensor([[3.0, 0.0]]).double(), torch.tensor([3.0]), torch.tensor([True]))
    lane.drop()
    assert lane.c.tolist() == [[2, 3, -math.inf]]


def test_a_cut_is_a_half_space_and_none_where_there_is_no_gradient():
    """``value + g . (q - r) >= 0`` for q on its side, whatever the size of the gradient."""
    g = draw(4, 3) * torch.tensor([1.0, 1e-30, 1e20, 1e38]).double()[:, None]
    r, value = draw(4, 3, seed=2).float(), (g.float().double() * draw(4, 3, seed=3)).sum(dim=1)
    some = lanes.Lanes.begin(torch.arange(4), torch.arange(4), r)
    some.cut(r, value, g.float())
    for q in (r.double(), draw(4, 3, seed=4)):
        says = (some.w[:, -1].double() * q).sum(dim=1) - some.c[:, -1]
        size = g.float().double().norm(dim=1)
        want = (value + (g.float().double() * (q - r.double())).sum(dim=1)) / size
        torch.testing.assert_close(says, want, rtol=1e-5, atol=1e-6)
    assert some.w.dtype == torch.float32
    none = lanes.Lanes.begin(torch.arange(4), torch.arange(4), r)
    g = torch.tensor([[0.0, 0, 0], [math.inf, 0, 0], [math.nan, 1, 0], [1, 0, 0]])
    none.cut(r, torch.tensor([1.0, 1, 1, -math.inf]).double(), g)
    assert bool((none.c == -math.inf).all())
    assert not none.w.any()


def test_where_a_lane_looks_next_and_begins():
    """Nothing found: where the cuts say; found: a part of the way; never at what is not finite."""
    beyond = torch.tensor([[4.0, 8.0], [4.0, 8.0], [4.0, math.inf], [math.nan, 8.0]])
    some = lanes.Lanes.begin(torch.arange(4), torch.arange(4), beyond)
    some.best = torch.full((4, 2), 2.0)
    some.size, some.damp = torch.tensor([math.inf, 1, 1, math.inf]).double(), some.damp * 0 + 0.25
    assert some.aim(beyond).tolist() == [[4, 8], [2.5, 3.5], [2, 2], [2, 2]]
    assert not some.start.any()  # the overshoot is not at its largest
    some.overshoot = torch.full((4,), 0.3, dtype=torch.float64)
    some.c[:3, -1], some.size = 1, torch.tensor([math.inf, 1, math.inf, math.inf]).double()
    assert some.start.tolist() == [[2, 2], [0, 0], [2, 2], [0, 0]]


def test_what_a_lane_keeps_stays_within_its_bounds():
    """Overshoot: 1e-4 to 0.3; part of the way: 5% to 90%; of points the last, then the best."""
    like = torch.zeros(1, 2, dtype=torch.float64)
    lane = lanes.Lanes.begin(torch.tensor([0]), torch.tensor([1]), like)

    def look(size: float, wanted: bool) -> None:
        lane.look(like + size, torch.tensor([size]).double(), torch.tensor([wanted]))

    for _ in range(9):
        look(7.0, wanted=False)
    assert (float(lane.overshoot), float(lane.damp), float(lane.best[0, 0])) == (0.3, 0.7, 7)
    for n in range(20):
        look(0.9**n, wanted=True)
    assert (float(lane.overshoot), float(lane.damp)) == (1e-4, 0.9)
    for _ in range(30):
        look(9.0, wanted=False)
    assert (float(lane.damp), float(lane.best[0, 0])) == (0.05, 0.9**19)
    lane.c[:] = torch.tensor([[0.0, 1 + 5e-7, 1 + 2e-6]]).double() * lane.best[0, 0]
    lane.w[:] = torch.tensor([1.0, 0.0]).double()
    lane.drop()  # but for roundings
    assert lane.c.isfinite().tolist() == [[True, True, False]]


@pytest.mark.parametrize(("race", "targeted"), [(True, False), (False, False), (False, True)])
def test_what_a_look_notes(race, targeted):
    """The point in the box, whether it is as wanted, and the cut there, by autograd.

    The cut is where the margin is as large as asked for; of a lane in a race that is not there
    yet, where the class that it heads for is ahead by as much. Two lanes are of one sample.
    """
    net, x = build("smooth_mlp", 3)
    x = x.sigmoid()
    first, second = net(x).topk(2).indices.T
    wanted = Criterion(second if targeted else first, targeted)
    frame, done = Frame(x, Box(0.0, 1.0), 2, 1e-16), torch.zeros(3, dtype=torch.bool)
    race_of = hunt.Hunt(Call(net, 3), frame, wanted, done)
    sample = torch.tensor([0, 0, 1, 2])
    label = (first[sample] + 2) % 5
    r = 3 * draw(4, 6, seed=3)
    r[3] = jacfast.deepfool(net, x, target=second if targeted else None).r[2]
    lane = lanes.Lanes.begin(sample, label, frame.flat)
    lane.best[0, 0] = lane.size[0] = 1e-3  # found before, nearer than any boundary
    race_of._look(lane, r, race)

    point = (x[sample] + r).clamp(0, 1).requires_grad_()
    z = net(point)
    own = z.gather(1, wanted.labels[sample][:, None])
    others = z.scatter(1, wanted.labels[sample][:, None], -math.inf).amax(dim=1, keepdim=True)
    margin = (own - others if targeted else others - own)[:, 0]
    least = 4 * torch.finfo(z.dtype).eps * z.detach().abs().amax(dim=1)
    there = margin > least
    assert {True, False} == set(there.tolist())
    if race:
        margin = torch.where(there, margin, (z.gather(1, label[:, None]) - own)[:, 0])
    (g,) = torch.autograd.grad(margin.sum(), point)
    way = (point - x[sample]).detach()
    assert not torch.equal(way, r)
    torch.testing.assert_close(lane.best[1:], way[1:])
    torch.testing.assert_close(lane.size[1:], way.norm(dim=1).where(there, math.inf)[1:])
    assert lane.best[0].tolist() == [1e-3, 0, 0, 0, 0, 0]
    w = g / g.norm(dim=1, keepdim=True)
    torch.testing.assert_close(lane.w[:, -1], w)
    c = (w * way).sum(dim=1) - (margin.detach() - least) / g.norm(dim=1)
    dropped = lane.found & ((w * lane.best).sum(dim=1) < c - 1e-6 * c.abs())
    assert bool(dropped[0])
    torch.testing.assert_close(lane.c[:, -1], c.where(~dropped, -math.inf))
    for passes in (race_of.forwards, race_of.backwards):
        assert passes.tolist() == [2, 1, 1]
