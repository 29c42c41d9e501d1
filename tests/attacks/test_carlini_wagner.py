"""carlini_wagner: the distance to the boundary of linear models, and who is left alone."""

import re

import pytest
import torch
from torch import nn

from jacfast import carlini_wagner
from jacfast.attacks.box import Box
from jacfast.attacks.descent import Descent, Nearest, search
from jacfast.attacks.losses import Criterion
from jacfast.calling import Call
from tests.nets import build, draw

# Constants from among those that lead to the boundary: the search itself has a test below.
FEW = {"initial_const": 0.1, "binary_steps": 5}


def linear(classes: int = 4, entries: int = 6) -> tuple[nn.Linear, torch.Tensor]:
    """Return a linear model, and inputs near the middle of the box (0, 1).

    Its rows are orthogonal and equally long, so that the runner-up's boundary is the nearest.
    """
    model = nn.Linear(entries, classes).double()
    model.weight.data = 2 * torch.linalg.qr(draw(entries, entries)).Q[:classes]
    model.bias.data = -model.weight.data.sum(1) / 2
    return model, 0.5 + 0.15 * draw(40, entries, seed=3).clamp(-2, 2)


def distance(model: nn.Linear, x: torch.Tensor, confidence: float = 0.0) -> torch.Tensor:
    z = model(x).detach()
    own = z.argmax(1)
    gap = z.gather(1, own[:, None]) - z + confidence
    between = torch.cdist(model.weight.data[own], model.weight.data)
    return (gap / between).scatter(1, own[:, None], float("inf")).min(1).values


@pytest.mark.parametrize("confidence", [0.0, 0.2])
def test_distance_to_the_nearest_boundary_of_a_linear_model(confidence):
    model, x = linear()
    x = x[distance(model, x) > 0.05]  # a step of Adam is 0.005 an entry
    want = distance(model, x, confidence)
    assert len(x) > 10
    got = carlini_wagner(model, x, confidence=confidence, steps=150, **FEW)
    norm = (got - x).norm(dim=1)
    assert float((norm / want).min()) > 1 - 1e-9
    assert float((norm / want).max()) < 1.02
    z = model(got).detach()
    own = z.gather(1, model(x).argmax(1, keepdim=True))
    assert bool((z.max(1, keepdim=True).values - own > confidence).all())


def test_two_classes_and_one_sample():
    model, x = linear(2)
    x = x[distance(model, x).argmax()][None]
    norm = (carlini_wagner(model, x, steps=150, **FEW) - x).norm()
    assert 1 <= float(norm / distance(model, x)) < 1.02


def test_other_boxes():
    """The same problem in another box: the same path, scaled."""
    model, x = linear()
    want = carlini_wagner(model, x, steps=60, **FEW)
    wide = lambda x: model((x + 3) / 4)  # noqa: E731
    got = carlini_wagner(wide, 4 * x - 3, steps=60, clip=(-3, 1), **FEW)
    torch.testing.assert_close((got + 3) / 4, want, rtol=0, atol=5e-3)


def test_samples_do_not_depend_on_each_other():
    model, x = build("smooth_mlp", samples=6)
    x = x.sigmoid()
    options = {"steps": 40, "binary_steps": 3, "initial_const": 1.0}  # which part at once
    together = carlini_wagner(model, x, **options)
    alone = torch.cat([carlini_wagner(model, part, **options) for part in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_misclassified_samples_and_hopeless_ones_are_unchanged():
    model, x = linear()
    y = model(x).argmax(1)
    y[::2] = (y[::2] + 1) % 4
    got = carlini_wagner(model, x, y, steps=60, **FEW)
    assert torch.equal(got[::2], x[::2])
    assert bool((got[1::2] != x[1::2]).any(dim=1).all())
    model.bias.data[0] += 100
    assert torch.equal(carlini_wagner(model, x, steps=20), x)


def test_nearest_point_of_the_whole_search_is_kept():
    """Later constants can end farther away, or nowhere; what was found stays."""
    model, x = linear()
    norms = [
        (carlini_wagner(model, x, steps=50, **FEW | {"binary_steps": n}) - x).norm(dim=1)
        for n in (3, 4, 6)
    ]
    found = [torch.where(norm > 0, norm, float("inf")) for norm in norms]
    assert bool((found[1] <= found[0]).all())
    assert bool((found[2] <= found[1]).all())
    assert bool((found[2] < found[0]).any())


def test_sum_and_gradient_of_a_step():
    """Against autograd through tanh and the model, in a box that is not (0, 1)."""
    model, x = build("smooth_mlp", samples=9)
    x, y, const = 2 * x.tanh(), torch.arange(9) % 5, torch.linspace(0.1, 3, 9).double()
    w = draw(9, 6).requires_grad_()
    moved = -2 + 5 * (w.tanh() + 1) / 2
    z = model(moved)
    others = z.scatter(1, y[:, None], -torch.inf).max(1).values
    short = (z.gather(1, y[:, None])[:, 0] - others + 0.3).clamp(min=0)
    want = ((moved - x) / 5).square().sum(1) + const * short
    (gradient,) = torch.autograd.grad(want.sum(), w)
    descent = Descent(Call(model, 9), 0.3, 1, 0.1, False, Box(-2.0, 3.0))
    nearest = Nearest(x, Criterion(y))
    total, g, hit = descent._look(nearest, torch.arange(9), w.detach(), const)
    torch.testing.assert_close(total, want.detach())
    torch.testing.assert_close(g, gradient)
    assert torch.equal(hit, short == 0)
    assert 0 < int(hit.sum()) < 9
    torch.testing.assert_close(nearest.point[hit], moved.detach()[hit])
    assert torch.equal(nearest.point[~hit], x[~hit])


def test_constants_grow_tenfold_then_are_bisected():
    """A descent that succeeds from 0.05 on, one that never does, one that does at once."""
    least, tried = torch.tensor([0.05, 1e9, 0.0]).double(), []

    class Descent:
        def run(self, nearest, const):
            tried.append(const)
            return const >= least

    x = torch.zeros(3, 2)
    search(Descent(), Nearest(x, Criterion(torch.zeros(3, dtype=torch.int64))), 1e-3, 7)
    want = [
        [1e-3, 1e-2, 0.1, 0.055, 0.0325, 0.04375, 0.049375],
        [10.0**n for n in range(-3, 4)],
        [1e-3 / 2**n for n in range(7)],
    ]
    torch.testing.assert_close(torch.stack(tried, 1), torch.tensor(want).double())


def test_no_sample_is_computed_after_it_stops_to_fall():
    """Without a gradient nothing falls: two looks for each of the constants."""
    seen = []

    def model(x):
        seen.append(len(x))
        return torch.stack([x.sum(1) * 0 + 1, x.sum(1) * 0], 1)

    x = draw(3, 6).sigmoid()
    assert torch.equal(carlini_wagner(model, x, steps=100, binary_steps=4), x)
    clean = 1
    assert len(seen) == clean + 4 * (1 + 100 // 10)
    seen.clear()
    carlini_wagner(model, x, steps=100, binary_steps=4, abort_early=False)
    assert len(seen) == clean + 4 * 100


@pytest.mark.parametrize(("lr", "looks"), [(1e-8, 1 + 100 // 10), (1e-3, 100)])
def test_a_sum_falls_by_a_ten_thousandth_of_itself_or_the_sample_leaves(lr, looks):
    seen = []

    def model(x):
        seen.append(len(x))
        return torch.cat([0 * x + 0.9, x], dim=1)

    x = torch.full((1, 1), 0.5, dtype=torch.float64)
    carlini_wagner(model, x, steps=100, binary_steps=1, initial_const=1.0, lr=lr)
    assert len(seen) == 1 + looks


def test_who_was_misclassified_once_was_so_whatever_comes_after():
    """One step leads beyond 0.6, and the distance back again: the constant need not grow."""
    seen = []

    def model(x):
        seen.append(float(x.detach()))
        return torch.cat([0 * x + 0.6, x], dim=1)

    x, returned = torch.full((1, 1), 0.5, dtype=torch.float64), 0
    for steps in range(1, 12):
        seen.clear()
        descent = Descent(Call(model, 1), 0.0, steps, 0.3, False, Box(0.0, 1.0))
        wanted = Criterion(torch.zeros(1, dtype=torch.int64))
        assert bool(descent.run(Nearest(x, wanted), torch.ones(1).double())) == (max(seen) > 0.6)
        returned += max(seen) > 0.6 > seen[-1]
    assert returned


def test_faces_of_the_box_and_half_precision():
    model, x = build("cnn", samples=6, dtype=torch.float16)
    x = x.sigmoid().round()
    got = carlini_wagner(model, x, steps=100, lr=0.1, abort_early=False, **FEW)
    assert got.dtype == torch.float16
    assert float(got.min()) >= 0
    assert float(got.max()) <= 1
    before, after = model(x).argmax(1), model(got).argmax(1)
    moved = (got != x).flatten(1).any(dim=1)
    assert torch.equal(moved, before != after)
    assert int(moved.sum()) >= 5


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("clip must be finite, (low, high): the tangent maps onto that box; got N", {"clip": None}),
        ("clip must be finite, (low, high): the tangent", {"clip": (0, float("inf"))}),
        ("x must lie in the box", {"clip": (0.6, 1)}),
        ("steps must be >= 1; got 0", {"steps": 0}),
        ("binary_steps must be >= 1; got 0", {"binary_steps": 0}),
        ("initial_const must be finite and > 0; got 0", {"initial_const": 0}),
        ("lr must be finite and > 0; got -1", {"lr": -1}),
        ("confidence must be finite and >= 0; got -1", {"confidence": -1}),
        ("at least 2 logits per sample; got 1", {"model": lambda x: x[:, :1]}),
        ("y must lie in 0 .. K - 1 = 3; got 4 .. 4", {"y": torch.full((40,), 4)}),
    ],
)
def test_bad_input_is_refused(text, arguments):
    model, x = linear()
    with pytest.raises(ValueError, match=re.escape(text)):
        carlini_wagner(**{"model": model, "x": x, **arguments})


def test_misclassified_by_less_than_the_confidence_is_not_enough():
    model, x = linear()
    y = (model(x).argmax(1) + 1) % 4
    z = model(x).detach()
    by = z.max(1).values - z.gather(1, y[:, None])[:, 0]
    confidence = float(by.median()) + 1e-6
    got = carlini_wagner(model, x, y, confidence=confidence, steps=60, lr=0.05, **FEW)
    assert torch.equal((got != x).any(dim=1), by <= confidence)


def test_steps_are_those_of_adam():
    model, x = build("smooth_mlp", samples=5)
    x, y, seen = x.sigmoid(), torch.arange(5), []
    const = torch.full((5,), 3.0).double()

    def noted(at):
        seen.append(at.detach().clone())
        return model(at)

    descent = Descent(Call(noted, len(x)), 0.3, 40, 0.1, False, Box(0.0, 1.0))
    w = descent._start(x).requires_grad_()
    descent.run(Nearest(x, Criterion(y)), const)
    adam = torch.optim.Adam([w], lr=0.1)
    for point in seen:
        moved = (w.tanh() + 1) / 2
        torch.testing.assert_close(point, moved.detach())
        z = model(moved)
        others = z.scatter(1, y[:, None], -torch.inf).max(1).values
        short = (z.gather(1, y[:, None])[:, 0] - others + 0.3).clamp(min=0)
        adam.zero_grad()
        ((moved - x).square().sum(1) + const * short).sum().backward()
        adam.step()
    assert len(seen) == 40
