"""minimal_norm: the ways of a search, what a look notes of each, and which of them go on."""

import math

import pytest
import torch

import jacfast
from jacfast.attacks import hunt, lanes
from jacfast.attacks.box import Box
from jacfast.attacks.first_cuts import first_cuts
from jacfast.attacks.frame import Frame
from jacfast.attacks.losses import Criterion
from jacfast.calling import Call
from tests.nets import build, draw


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


@pytest.mark.parametrize(("race", "some"), [(23, 3), (11, 2), (10, 1)])
def test_the_first_cuts_are_as_far_as_a_class_must_win(race, some):
    """By four epsilons of the logits, here of bfloat16: 0.5 of 16. The nearest are kept."""
    w, z = draw(4, 3), torch.tensor([[16.0, 12.0, 15.0, 14.0]])
    leaf = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    logits = (z + leaf @ w.T).bfloat16()
    frame, lost = Frame(leaf.detach(), Box(), 2, 1e-16), torch.zeros(1).long()

    def cuts(label, targeted):
        wanted = Criterion(torch.tensor([label]), targeted)
        return first_cuts(frame, leaf, logits, wanted, 46, race, None, lost)

    far = (z[0, 0] - z[0, 1:] + 0.5) / (w[0] - w[1:]).norm(dim=1)
    found, rows = cuts(0, targeted=False)
    assert (found.label - 1).tolist() == far.argsort()[:some].tolist()
    torch.testing.assert_close(frame.length(frame.shortest(found)[0]), far.sort().values[:some])
    assert rows == 3
    for label in (1, 2, 3):
        found, rows = cuts(label, targeted=True)
        assert (found.label.tolist(), rows) == ([label], 1)
        length = frame.length(frame.shortest(found)[0])
        torch.testing.assert_close(length, far[label - 1 : label])
    assert lost.tolist() == [0]


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
