"""pgd and bim: the optimum of linear models, starts, restarts, the set they stay in."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import bim, fgsm, pgd
from jacfast.attacks.ball import Ball
from jacfast.attacks.box import Box
from tests.nets import build, draw


def linear(classes: int, entries: int, seed: int = 0) -> nn.Linear:
    model = nn.Linear(entries, classes).double()
    model.weight.data, model.bias.data = draw(classes, entries, seed=seed), draw(classes, seed=9)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("random_start", [False, True])
def test_linear_model_in_the_maximum_norm(loss, random_start):
    """Two classes: the loss grows with (w_1 - w_0) x for the label 0, also in a box."""
    model, x = linear(2, 7), draw(9, 7).sigmoid()
    y = torch.arange(9) % 2
    w = (model.weight[1] - model.weight[0]).detach() * (1 - 2 * y)[:, None]
    want = (x + 0.3 * w.sign()).clamp(0, 1)
    got = pgd(model, x, y, eps=0.3, loss=loss, random_start=random_start)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    assert bool((want == 1).any())


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("random_start", [False, True])
def test_linear_model_in_the_2_norm(loss, random_start):
    model, x = linear(2, 7), draw(9, 7)
    y = torch.arange(9) % 2
    w = (model.weight[1] - model.weight[0]).detach() * (1 - 2 * y)[:, None]
    want = x + 0.7 * w / w.norm(dim=1, keepdim=True)
    choices = {"p": 2, "loss": loss, "random_start": random_start, "clip": None}
    got = pgd(model, x, y, eps=0.7, steps=60, step_size=0.7, **choices)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    got = pgd(model, x, y, eps=0.7, **{**choices, "random_start": False})
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)  # the default step gets there, too


def test_margin_leads_to_the_runner_up():
    model, x = linear(5, 7), draw(9, 7)
    y = torch.arange(9) % 5
    z = model(x).detach().scatter(1, y[:, None], -math.inf)
    w = (model.weight[z.argmax(1)] - model.weight[y]).detach()
    got = bim(model, x, y, eps=1e-3, p=2, loss="margin", clip=None)
    torch.testing.assert_close(got, x + 1e-3 * w / w.norm(dim=1, keepdim=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_one_step_of_bim_is_fgsm(name):
    model, x = build(name, samples=7)
    x = x.sigmoid()
    assert torch.equal(bim(model, x, eps=0.1, steps=1, step_size=0.1), fgsm(model, x, eps=0.1))


def test_default_steps():
    model, x = linear(2, 3), draw(1, 3)  # the gradient keeps its sign: steps add up
    for attack, each in ((lambda **k: pgd(random_start=False, **k), 2.5), (bim, 1.25)):
        got = attack(model=model, x=x, eps=1.0, steps=10, clip=None)
        assert torch.equal((got - x).abs().round(decimals=12), torch.ones_like(x))
        half = attack(model=model, x=x, eps=1.0, steps=100, clip=None)
        few = attack(model=model, x=x, eps=1.0, steps=1, step_size=each / 100, clip=None)
        torch.testing.assert_close((half - x).abs(), torch.ones_like(x))
        torch.testing.assert_close((few - x).abs(), torch.full_like(x, each / 100))
    # too few to reach the edge: the two defaults can be told apart by a loss that turns
    bowl = lambda x: torch.stack([-(x * x).sum(1), 0 * x.sum(1)], dim=1)  # noqa: E731
    x = torch.full((1, 1), 0.3, dtype=torch.float64)
    one = torch.tensor([1])
    got = pgd(bowl, x, one, eps=1.0, steps=5, random_start=False, clip=None)
    assert float(got) == pytest.approx(0.3 - 0.5)  # 0.3 -0.2 0.3 -0.2 0.3 -0.2
    assert float(bim(bowl, x, one, eps=1.0, steps=5, clip=None)) == pytest.approx(0.3 - 0.25)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("p", [2, math.inf])
def test_result_lies_in_ball_and_box(p, dtype):
    model, x = build("cnn", samples=12, dtype=dtype)
    x = x.sigmoid()
    x[:3] = x[:3].round()  # corners of the box
    got = pgd(model, x, eps=0.4, p=p, generator=seeded())
    assert got.dtype == dtype
    assert not got.requires_grad
    size = (got - x).double().flatten(1).norm(p, dim=1)
    assert float(size.max()) <= 0.4 * (1 + 4 * torch.finfo(dtype).eps)
    assert float(size.min()) > 0.2
    assert float(got.min()) >= 0
    assert float(got.max()) <= 1


@pytest.mark.parametrize("p", [2, math.inf])
def test_starts_are_uniform_in_the_ball(p):
    x = torch.zeros(20_000, 2, dtype=torch.float64)
    start = Ball(x, 3.0, p, Box()).draw(seeded())
    size = start.norm(p, dim=1)
    assert float(size.max()) <= 3
    for radius in (0.9, 1.5, 2.7):  # five standard deviations
        share = (radius / 3) ** 2
        bound = 5 * math.sqrt(share * (1 - share) / len(x))
        assert float((size < radius).double().mean()) == pytest.approx(share, abs=bound)
    assert float(start.mean(0).abs().max()) < 0.1


@pytest.mark.parametrize("p", [2, math.inf])
def test_a_whole_number_is_a_radius_like_any_other(p):
    model, x = build("mlp")
    choices = {"p": p, "step_size": 3, "clip": None, "random_start": False}
    whole, same = (pgd(model, x, eps=eps, **choices) for eps in (1, 1.0))
    assert torch.equal(whole, same)


def test_generator_decides():
    model, x = build("mlp")
    first, again, other = (
        pgd(model, x, eps=0.2, steps=1, clip=None, generator=seeded(s)) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    state = torch.get_rng_state()
    # so short a step does not lead from two starts to one corner of the ball
    drawn = [pgd(model, x, eps=0.2, steps=1, step_size=0.01, clip=None) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(*drawn)


def two_hills(left: float, right: float):
    """Return a model of one entry: away from 0.5 the logit of class 1 rises, to these heights."""

    def model(x):
        rise = (x[:, 0] - 0.5) * 2
        height = torch.where(rise < 0, -rise * left, rise * right)
        return torch.stack([torch.zeros_like(height), height - 1], dim=1)

    return model


def test_restarts_go_on_until_a_sample_is_misclassified():
    x = torch.full((40, 1), 0.5)
    y = torch.zeros(40, dtype=torch.int64)
    model = two_hills(left=2.0, right=0.5)  # class 1 at the left end alone
    once = pgd(model, x, y, eps=0.5, generator=seeded())
    assert 5 < int((once == 1).sum()) < 35
    seen = []

    def counted(x):
        seen.append(len(x))
        return model(x)

    many = pgd(counted, x, y, eps=0.5, restarts=50, generator=seeded())
    assert bool((many == 0).all())
    sizes = seen[::11]  # ten steps and a look; those misclassified are not run again
    assert sizes[0] == 40
    assert sizes[1] == int((once == 1).sum())
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) < 20  # and not 50: all are done


def test_restarts_keep_the_first_misclassified_result():
    x = torch.full((40, 1), 0.5)
    y = torch.zeros(40, dtype=torch.int64)
    model = two_hills(left=2.0, right=3.0)  # class 1 at both ends
    once = pgd(model, x, y, eps=0.5, generator=seeded())
    assert torch.equal(pgd(model, x, y, eps=0.5, restarts=5, generator=seeded()), once)


def test_there_are_no_more_runs_than_restarts():
    seen = []

    def model(x):
        seen.append(len(x))
        return torch.cat([0 * x, x - 9], dim=1)

    x, y = torch.full((4, 1), 0.5), torch.zeros(4, dtype=torch.int64)
    pgd(model, x, y, eps=0.5, steps=2, restarts=3)
    assert seen == 3 * (2 + 1) * [4]  # two steps and a look


@pytest.mark.parametrize(("loss", "end"), [("cross-entropy", 1.0), ("margin", 0.0)])
def test_restarts_are_compared_by_the_loss_that_is_raised(loss, end):
    """On the left one class comes nearer, on the right two, neither of them as near."""

    def model(x):
        rise = (x[:, 0] - 0.5) * 2
        left, right = (-rise).clamp(min=0), rise.clamp(min=0)
        return torch.stack([0 * rise, 2 * left + 1.8 * right - 3, 7.8 * right - 9], dim=1)

    x, y = torch.full((40, 1), 0.5), torch.zeros(40, dtype=torch.int64)
    assert bool(
        (pgd(model, x, y, eps=0.5, restarts=40, loss=loss, generator=seeded()) == end).all()
    )


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_restarts_keep_the_largest_loss(loss):
    """Four corners of four heights, none of them high enough: the best of twenty is kept."""

    def model(x):
        rise = (x - 0.5) * 2
        quadrant = (rise > 0).long() @ torch.tensor([1, 2])
        height = torch.tensor([0.3, 0.1, 0.4, 0.2])[quadrant] * rise.abs().sum(1)
        return torch.stack([torch.zeros_like(height), height - 1], dim=1)

    x, y = torch.full((60, 2), 0.5), torch.zeros(60, dtype=torch.int64)
    many = pgd(model, x, y, eps=0.5, restarts=40, loss=loss, generator=seeded())
    assert torch.equal(many, torch.tensor([0.0, 1.0]).expand(60, 2))


def test_restarts_prefer_misclassified_results_to_a_larger_loss():
    """On the right class 0 stays ahead of two others, but has less probability than on the left."""

    def model(x):
        rise = (x[:, 0] - 0.5) * 2
        left, right = (-rise).clamp(min=0), rise.clamp(min=0)
        zero = torch.zeros_like(rise)
        return torch.stack([zero, -1 + 1.1 * left + 0.99 * right, -1 - left + 0.99 * right], 1)

    x, y = torch.full((40, 1), 0.5), torch.zeros(40, dtype=torch.int64)
    ends = F.cross_entropy(model(torch.tensor([[0.0], [1.0]])), y[:2], reduction="none")
    assert ends[0] < ends[1]
    assert model(torch.tensor([[0.0], [1.0]])).argmax(1).tolist() == [1, 0]
    assert bool((pgd(model, x, y, eps=0.5, restarts=40, generator=seeded()) == 0).all())


@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_zero_gradient_moves_nothing(loss, p):
    model = lambda x: torch.stack([x.sum(1) * 0, x.sum(1) * 0 + 1], 1)  # noqa: E731
    x = draw(4, 6).sigmoid()
    assert torch.equal(bim(model, x, eps=0.3, loss=loss, p=p), x)


@pytest.mark.parametrize("attack", [pgd, bim])
@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("steps", [{}, {"step_size": 0.1}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_ball_of_no_size_holds_x_alone(attack, p, steps, dtype):
    model, x = build("cnn", 5, dtype)
    x = x.sigmoid()
    assert torch.equal(attack(model, x, eps=0, p=p, **steps), x)
    flat = lambda a: 0 * a.flatten(1)[:, :2] + torch.tensor([1, 2]).to(a)  # noqa: E731
    assert torch.equal(attack(flat, x, eps=0, p=p, **steps), x)


@pytest.mark.parametrize(
    ("kind", "text", "arguments"),
    [
        (ValueError, "eps must be finite and >= 0; got -1", {"eps": -1}),
        (ValueError, "eps must be finite and >= 0; got nan", {"eps": math.nan}),
        (ValueError, "steps must be >= 1; got 0", {"steps": 0}),
        (TypeError, "steps must be an integer; got 2.5", {"steps": 2.5}),
        (TypeError, "steps must be an integer; got nan", {"steps": math.nan}),
        (ValueError, "step_size must be finite and > 0; got 0", {"step_size": 0}),
        (ValueError, "p must be one of 2, inf; got 1", {"p": 1}),
        (ValueError, "loss must be one of cross-entropy, margin; got 'ce'", {"loss": "ce"}),
        (ValueError, "clip must be (low, high)", {"clip": (1, 0)}),
        (ValueError, "x must lie in the box", {"clip": (0.6, 1)}),
        (ValueError, "y must lie in 0 .. K - 1 = 4; got 0 .. 5", {"y": torch.tensor([0, 5])}),
        (TypeError, "y must be an int64 tensor", {"y": torch.tensor([0.0, 1.0])}),
        (ValueError, "at least 2 logits per sample; got 1", {"model": lambda x: x[:, :1]}),
    ],
)
def test_bad_input_is_refused(kind, text, arguments):
    model, x = build("mlp", samples=2)
    given = {"model": model, "x": x.sigmoid(), "eps": 0.1, **arguments}
    for attack in (pgd, bim):
        with pytest.raises(kind, match=re.escape(text)):
            attack(**given)


def test_restarts_are_checked():
    model, x = build("mlp", samples=2)
    with pytest.raises(TypeError, match="eps must be a number; got NoneType"):
        bim(model, x, eps=None)
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator; got int"):
        pgd(model, x, eps=0.1, clip=None, generator=0)
    with pytest.raises(ValueError, match="restarts must be >= 1; got 0"):
        pgd(model, x, eps=0.1, clip=None, restarts=0)
    with pytest.raises(ValueError, match=r"restarts must be 1 without random_start.*; got 2"):
        pgd(model, x, eps=0.1, clip=None, restarts=2, random_start=False)


def test_restarts_keep_no_end_with_nan_logits():
    def model(x):
        left = torch.stack([0 * x[:, 0], -x[:, 0] - 1], dim=1)
        return torch.where(x > 0.5, math.nan, left)

    x, y = torch.full((40, 1), 0.5), torch.zeros(40, dtype=torch.int64)
    once = pgd(model, x, y, eps=0.5, generator=seeded())
    assert bool((once > 0.5).any())
    many = pgd(model, x, y, eps=0.5, restarts=40, generator=seeded())
    assert bool((many == 0).all())


@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_start_is_that_of_the_generator_whatever_the_default_dtype(p, dtype):
    model, x = build("mlp", 4, dtype)
    found = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            found.append(pgd(model, x, eps=0.5, p=p, steps=1, clip=None, generator=seeded()))
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*found)


@pytest.mark.parametrize("p", [2, math.inf])
def test_the_network_sees_points_of_ball_and_box_alone(p):
    x, seen = draw(30, 5).sigmoid().round(), []

    def model(z):
        seen.append(z.detach())
        return z[:, :2]

    pgd(model, x, eps=0.4, p=p, steps=3, restarts=2, generator=seeded())
    assert len(seen) > 4
    for points in seen[1:4]:
        assert bool(((points >= 0) & (points <= 1)).all())
        assert float((points - x).norm(p, dim=1).max()) <= 0.4 * (1 + 1e-12)
