"""Signs of masked gradients: each network that hides them on purpose shows the one it should."""

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast import data, models
from jacfast.calling import Call
from jacfast.robustness import attacked
from jacfast.robustness.attacked import Attacked, Choices, gradients
from jacfast.robustness.signs import signs

SIZES = {2: (0.4, 0.8), math.inf: (0.03, 0.06)}
SAMPLES = 50


@pytest.fixture(scope="module")
def digits():
    split = data.load(None)
    torch.manual_seed(0)
    model = models.mlp(784, 100, 10)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(4):
        for batch in torch.randperm(len(split.train_x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(split.train_x[batch]), split.train_y[batch]).backward()
            optimizer.step()
    return model.eval(), split.test_x[:SAMPLES], split.test_y[:SAMPLES]


class Around(nn.Module):
    """A network and what is done before and after it."""

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, x):
        return self.change(self.inner, x)


class Short(torch.autograd.Function):
    """The identity, with a gradient that is much too short: boundaries look far away."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g / 30


def ripple(inner, x):
    """Waves on the logits, along one direction, that are steeper than all that is below them."""
    u = torch.randn(784, generator=torch.Generator().manual_seed(1))
    along = (x.flatten(1) @ (u / u.norm()))[:, None]
    return inner(x) + 3 * torch.sin(50 * along + torch.arange(10.0))


def decoys(inner, x):
    """Small logits, and as small ones of many classes that never win, and lead elsewhere."""
    u = torch.randn(784, generator=torch.Generator().manual_seed(1))
    along = (x.flatten(1) @ (u / u.norm()))[:, None]
    return torch.cat([inner(x) / 100, (0.1 * along - 0.5).expand(-1, 40)], dim=1)


def hidden(digits, change, p=2, **options):
    """Return the names of the findings."""
    model, x, y = digits
    whole = Around(model, change)
    found = jacfast.robustness_report(whole, x, y, p=p, eps=SIZES[p], steps=10, **options)
    return [sign.name for sign in found.findings], found


@pytest.fixture(scope="module")
def plain(digits):
    """Return the names of the findings and the report of the plain network, by p."""
    return functools.cache(lambda p: hidden(digits, lambda inner, x: inner(x), p))


@pytest.fixture(scope="module")
def large(digits):
    """Return those of its logits times a hundred."""
    return hidden(digits, lambda inner, x: 100 * inner(x))


@pytest.mark.parametrize("p", [2, math.inf])
def test_a_plain_network_shows_none(plain, p):
    names, found = plain(p)
    assert names == []
    assert len(found.signs) == 6
    assert 0.1 < found.robust_accuracy(SIZES[p][1]) < 0.9


MASKS = {
    "pixels of 8 levels": (lambda inner, x: inner((8 * x).round() / 8), "zero gradients"),
    "signs": (lambda inner, x: inner(x).sign() + inner(x).detach(), "zero gradients"),
    "small logits and decoys": (decoys, "logits x 100"),
    "short gradients": (lambda inner, x: inner(Short.apply(x)), "PGD below the minimal norm"),
    "waves": (ripple, "random starts"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_what_is_hidden_is_found_and_nothing_else(digits, kind):
    change, name = MASKS[kind]
    check_alone(*hidden(digits, change), name)


def check_alone(names, found, name):
    assert names == [name]
    assert f"- {name}: FOUND" in str(found)
    assert "1 of 6 found" in str(found)


def test_logits_of_hundreds_saturate_and_hide_nothing_else(large):
    check_alone(*large, "saturated cross-entropy")


@pytest.mark.filterwarnings("ignore:the model's outputs look like probabilities")
def test_a_softmax_that_rounds_to_one(digits):
    assert hidden(digits, lambda inner, x: (100 * inner(x)).softmax(dim=1))[0] == ["zero gradients"]


def test_random_outputs(digits):
    """Comparing runs of such a network shows others, too; but for none of the networks above."""
    drawn = hidden(digits, lambda inner, x: inner(x + 0.1 * torch.randn_like(x)))[0]
    assert "random outputs" in drawn


def test_the_attacks_of_the_report_are_not_deceived_by_saturation(plain, large):
    (_, small), (_, found) = plain(2), large
    for eps in SIZES[2]:
        assert found.robust_accuracy(eps) == pytest.approx(small.robust_accuracy(eps), abs=0.021)


def test_a_plain_cross_entropy_does_not_move_there(digits, large):
    """The oracle of the saturated one: PyTorch's own gradient of F.cross_entropy."""
    model, x, y = digits
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(100 * model(leaf), y, reduction="sum"), leaf)
    right = model(x).argmax(dim=1) == y
    still = (g.flatten(1) == 0).all(dim=1) & right
    share = next(s.share for s in large[1].signs if s.name == "saturated cross-entropy")
    assert share == pytest.approx(float(still.sum() / right.sum()), abs=1e-6)
    assert share > 0.5


@pytest.mark.parametrize("p", [2, math.inf])
def test_an_impossible_class_is_the_same_in_every_call(digits, plain, p):
    names, found = hidden(digits, lambda inner, x: F.pad(inner(x), (0, 1), value=-math.inf), p)
    assert names == []
    for name, far in plain(p)[1].distances.items():
        torch.testing.assert_close(found.distances[name], far, rtol=0.02, atol=0)


def test_another_impossible_class_in_the_next_call_is_drawn(digits):
    calls = itertools.count()

    def change(inner, x):
        pair = torch.tensor([-math.inf, -99.0]).roll(next(calls))
        return torch.cat([inner(x), pair.expand(len(x), -1)], dim=1)

    assert "random outputs" in hidden(digits, change)[0]


def test_who_is_missed_from_the_first_start_may_be_fooled_in_both_other_ways(monkeypatch):
    """Each sign counts all whom its own way fooled, and the first start did not."""
    fooled = iter([[True, False, False], [True, True, False], [True, True]])

    def run(_call, x, y, *_, **__):
        success = torch.tensor(next(fooled))
        return jacfast.AttackResult(x, 0 * x, torch.ones(len(x)), success, y, y + success.long())

    monkeypatch.setattr(attacked, "_run", run)
    x, y = torch.rand(3, 4), torch.zeros(3).long()
    choices = Choices(p=2.0, eps=(1.0,), budget=5, steps=1, restarts=2, clip=None)
    found = attacked.ascents(Call(nn.Identity(), 3), x, y, choices, torch.Generator())
    who = {name: found[name][:, 0].tolist() for name in ("first", "scaled", "later")}
    assert who["first"] == [True, False, False]
    assert who["scaled"] == [False, True, False]
    assert who["later"] == [False, True, True]
    assert found["pgd"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("size", "change", "drawn"), [(1e-6, 1e-8, True), (1e6, 1.0, False)], ids=["small", "large"]
)
def test_logits_are_drawn_by_what_they_change_of_themselves(size, change, drawn):
    calls, x = itertools.count(), torch.rand(3, 4)
    call = Call(lambda x: size * (1 + x) + change * next(calls), len(x))
    assert gradients(call, x, torch.zeros(3).long())["drawn"].tolist() == [drawn] * 3


def test_the_distance_of_pgd_is_the_least_of_all_its_runs(monkeypatch):
    """Of the first start, the same one with larger logits, and the others; each as it was asked."""
    lengths = iter([[3.0, 2.0, 0.0], [1.0, 3.0, 0.0], [0.5]])
    runs = []

    def pgd(_call, x, y, *, generator, **options):
        runs.append((generator.get_state(), options))
        generator.manual_seed(len(runs))
        norm = torch.tensor(next(lengths))
        who = norm > 0
        return jacfast.AttackResult(x, 0 * x, norm, who, y, y + who.long())

    monkeypatch.setattr(attacked.pgd, "result", pgd)
    choices = Choices(p=2.0, eps=(4.0,), budget=5, steps=6, restarts=3, clip=(0.0, 1.0))
    call, x, y = Call(nn.Identity(), 3), torch.rand(3, 4), torch.zeros(3).long()
    found = attacked.ascents(call, x, y, choices, torch.Generator().manual_seed(9))
    assert found["pgd"].tolist() == [1, 2, 0.5]
    (first, own), (scaled, same), (_, later) = runs
    assert torch.equal(first, scaled)
    assert own == same == {"eps": 4.0, "p": 2.0, "steps": 6, "clip": (0.0, 1.0)}
    assert later == {**own, "restarts": 2}


def test_a_change_counts_that_is_shorter_by_more_than_a_tenth():
    one, no = torch.ones(2).double(), torch.zeros(2, dtype=torch.bool)
    found = Attacked(
        deepfool=one,
        minimal=torch.tensor([1.09, 1.11]).double(),
        pgd=one,
        **dict.fromkeys(("first", "later", "scaled"), no[:, None]),
        **dict.fromkeys(("still", "saturated", "drawn"), no),
    )
    shares = {sign.name: sign.share for sign in signs(found) if sign.share}
    assert shares == {"PGD below the minimal norm": 0.5}


def test_a_share_is_the_largest_at_one_size():
    """Of later starts at the second of three sizes, of larger logits at the last."""
    no = torch.zeros(4, dtype=torch.bool)
    later, scaled = torch.zeros(4, 3, dtype=torch.bool), torch.zeros(4, 3, dtype=torch.bool)
    later[:3, 1] = later[3, 0] = scaled[:2, 2] = True
    some = {"first": scaled, "later": later, "scaled": scaled}
    length = dict.fromkeys(("deepfool", "minimal", "pgd"), torch.ones(4).double())
    rest = dict.fromkeys(("still", "saturated", "drawn"), no)
    shares = {sign.name: sign.share for sign in signs(Attacked(**length, **some, **rest))}
    assert {name: share for name, share in shares.items() if share} == {
        "logits x 100": 0.5,
        "random starts": 0.75,
    }


def test_a_gradient_that_is_zero_in_some_pixels_is_one():
    model = nn.Linear(4, 3)
    model.weight.data[:, 1] = 0
    found = gradients(Call(model, 5), torch.rand(5, 4), torch.zeros(5).long())
    assert not bool(found["still"].any() | found["saturated"].any())
