"""minimal_norm from points on a boundary, or by a few roundings of the logits away from one."""

import math

import pytest
import torch
from torch import nn

import jacfast
from tests.nets import draw

NORMS = pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
DTYPES = pytest.mark.parametrize(
    ("dtype", "logits"),
    [
        (torch.float64, torch.float64),
        (torch.float64, torch.bfloat16),
        (torch.float32, torch.float32),
        (torch.float32, torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)


@NORMS
@DTYPES
@pytest.mark.parametrize("slope", [1.0, 100.0])
@pytest.mark.parametrize("reach", [False, True])
def test_a_margin_of_a_few_epsilons(p, dtype, logits, slope, reach):
    """Of logits of about ten. Along the slope, no way is much longer than the margin needs."""
    eps = max(torch.finfo(t).eps for t in (dtype, logits))
    w = draw(300)
    w = w / w.norm()
    start = (0.5 + draw(300, seed=2) / 20).to(dtype).double()
    margins = 10 * eps * torch.tensor([0.0, 0.3, 1.0, 4.0, 13.0], dtype=torch.float64)

    def model(x, args):
        s = (slope * ((x.double() - start) @ w) - args) / 2
        return torch.stack([10 - s, 10 + s], dim=1).to(logits)

    x = start.to(dtype).expand(5, -1)
    given = {"target": torch.ones(5).long()} if reach else {"y": torch.zeros(5).long()}
    found = jacfast.minimal_norm.result(model, x, p=p, args=(margins,), **given)
    assert bool(found.success.all())
    assert int((found.forwards + found.backwards).max()) < 100
    along = (found.adversarial.double() - start) @ w
    needed = (margins + 4 * 10 * eps) / slope
    assert bool((along < 1.5 * needed + 4 * eps * start.norm()).all())


@NORMS
@pytest.mark.parametrize("reach", [False, True])
def test_logits_that_are_all_zero(p, reach):
    model = nn.Linear(2, 2).double()
    model.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    model.bias.data = torch.tensor([-0.5, 0.5]).double()
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    given = {"target": torch.tensor([1])} if reach else {}
    found = jacfast.minimal_norm.result(model, x, p=p, **given)
    assert found.success.tolist() == [True]
    assert 0 < float(found.norm) < 1e-14


@NORMS
def test_images_and_logits_that_are_all_zero(p):
    """Nothing has a scale but the box, or, without one, 1."""
    model = lambda x: torch.stack([x.sum(dim=1), -x.sum(dim=1)], dim=1)  # noqa: E731
    x = torch.zeros(2, 7, dtype=torch.float64)
    for clip in ((-1.0, 1.0), None):
        found = jacfast.minimal_norm.result(model, x, p=p, clip=clip)
        assert found.success.tolist() == [True, True]
        assert float(found.norm.max()) < 1e-14


@NORMS
def test_bfloat16_logits(p):
    """0.289 is the length of DeepFool's r; so far the other class must win by 4 epsilons of 10."""
    model = lambda x: torch.stack([9.75 + x[:, 0], 10.25 - x[:, 0]], dim=1).bfloat16()  # noqa: E731
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    found = jacfast.minimal_norm.result(model, x, p=p)
    assert found.success.tolist() == [True]
    assert 0.4 < float(found.norm) < 0.45


@NORMS
def test_autocast(p):
    """The network rounds x itself, so what x resolves is what the logits do."""
    w = draw(30, seed=4).float()
    model = nn.Linear(30, 2)
    model.weight.data = torch.stack([w, -w])
    model.bias.data = torch.tensor([10.0, 10.0])
    x = 0.5 + draw(24, 30, dtype=torch.float32) / 20
    margins = torch.linspace(-0.3, 0.3, 24)  # of the exact logits
    x = x - ((2 * x @ w - margins) / (2 * w @ w))[:, None] * w

    def run(a):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(a)

    eps = torch.finfo(torch.bfloat16).eps
    found = jacfast.minimal_norm.result(run, x, p=p)
    assert bool(found.success.all())
    along = (found.r @ w).abs() / w.norm()
    needed = (0.3 + 5 * 10 * eps) / (2 * w.norm())
    assert float(along.max()) < 1.5 * needed + 4 * eps * float(x.norm(dim=1).max())
