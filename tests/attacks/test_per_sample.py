"""A radius for each sample: the same as in units in which all radii are 1."""

import math
import re

import pytest
import torch

import jacfast
from tests.nets import build

SAMPLES = 8
EPS = torch.linspace(0.05, 1.5, SAMPLES, dtype=torch.float64).view(-1, 1, 1, 1)
STEP = {"steps": 7, "clip": None}
ATTACKS = {
    "fgsm": lambda m, x, s, **k: jacfast.fgsm(m, x, eps=s, clip=None, **k),
    "bim": lambda m, x, s, **k: jacfast.bim(m, x, eps=s, **STEP, **k),
    "bim in the 2-norm": lambda m, x, s, **k: jacfast.bim(m, x, eps=s, p=2, **STEP, **k),
    "bim, steps of its own": lambda m, x, s, **k: jacfast.bim(
        m, x, eps=s, step_size=s / 3, **STEP, **k
    ),
    "pgd": lambda m, x, s, **k: drawn(m, x, s, p=math.inf, **k),
    "pgd in the 2-norm": lambda m, x, s, **k: drawn(m, x, 4 * s, p=2, **k),
    "jsma": lambda m, x, s, **k: jacfast.jsma(m, x, eps=s, steps=9, clip=None, **k),
    "jsma of pairs": lambda m, x, s, **k: jacfast.jsma(
        m, x, target=target(m, x, **k), pixels=2, eps=s, steps=9, clip=None, **k
    ),
}


def drawn(model, x, eps, **more):
    """By several starts: who is fooled leaves, and the others keep their own radius."""
    generator = torch.Generator().manual_seed(3)
    return jacfast.pgd(model, x, eps=eps, restarts=4, generator=generator, **STEP, **more)


def target(model, x, args=()):
    return (model(x, *args).argmax(dim=1) + 1) % 5


def images():
    model, x = build("cnn", samples=SAMPLES)
    return model, x.sigmoid()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_radius_for_each_sample(name):
    model, x = images()
    got = ATTACKS[name](model, x, EPS)
    want = EPS * ATTACKS[name](lambda z, s: model(z * s), x / EPS, 1.0, args=(EPS,))
    torch.testing.assert_close(got, want)
    fooled = model(got).argmax(dim=1) != model(x).argmax(dim=1)
    assert 0 < int(fooled.sum()) < SAMPLES or name.startswith("jsma")


@pytest.mark.parametrize("p", [2, math.inf])
def test_nobody_leaves_its_own_ball(p):
    model, x = images()
    eps = EPS.clone()
    eps[2] = 0
    got = jacfast.pgd.result(model, x, eps=eps, p=p, restarts=2, steps=5)
    assert bool((got.norm <= eps.flatten() * (1 + 1e-12)).all())
    assert torch.equal(got.adversarial[2], x[2])
    assert got.radius == pytest.approx(float(eps.max()))


@pytest.mark.parametrize("p", [2, math.inf])
def test_one_radius_for_all_is_a_number(p):
    model, x = images()
    want, got = (drawn(model, x, s, p=p) for s in (0.5, torch.full_like(EPS, 0.5)))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"eps": EPS.flatten()}, "eps must be a number, or a tensor that broadcasts to x"),
        ({"eps": EPS[:3]}, "eps must be a number, or a tensor that broadcasts to x"),
        ({"eps": 1.0, "step_size": EPS[:3]}, "step_size must be a number, or a tensor that"),
        ({"eps": EPS - 1}, "eps must be finite and >= 0; got -0.95"),
        ({"eps": 1.0, "clip": (-EPS, EPS)}, "clip must be a number, or a tensor that broadcasts"),
        ({"eps": EPS.expand(-1, 2, 1, 1), "p": 2}, "eps must be a number for p=2, or a tensor"),
    ],
)
def test_what_fits_no_sample_is_refused(options, text):
    model, x = build("cnn", samples=SAMPLES, dtype=torch.float64)
    with pytest.raises(ValueError, match=re.escape(text)):
        jacfast.pgd(model, x[..., :7], **{"clip": None, **options})
