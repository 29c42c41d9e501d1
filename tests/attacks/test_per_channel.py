"""Bounds and sizes of each channel: the same as for images of which every channel is in 0 .. 1."""

import math
import re

import numpy as np
import pytest
import torch

import jacfast
from tests.nets import build

MEAN = torch.tensor([0.4, 0.2]).double().view(-1, 1, 1)
STD = torch.tensor([0.25, 0.25]).double().view(-1, 1, 1)
LOW, HIGH = (0 - MEAN) / STD, (1 - MEAN) / STD
EPS = torch.tensor([0.3, 0.1]).double().view(-1, 1, 1)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


# of (model, x, the box, a length of 1); where all channels have one width, the methods are the same
ATTACKS = {
    "fgsm": lambda m, x, box, s: jacfast.fgsm(m, x, eps=0.3 * s, clip=box),
    "bim": lambda m, x, box, s: jacfast.bim(m, x, eps=0.3 * s, clip=box),
    "pgd": lambda m, x, box, s: jacfast.pgd(m, x, eps=0.3 * s, clip=box, generator=generator()),
    "pgd-2": lambda m, x, box, s: jacfast.pgd(m, x, eps=2.0 * s, p=2, clip=box, random_start=False),
    "carlini_wagner": lambda m, x, box, s: jacfast.carlini_wagner(
        m, x, steps=60, binary_steps=5, clip=box
    ),
    "ddn": lambda m, x, box, s: jacfast.ddn(m, x, steps=20, clip=box),
    "fmn": lambda m, x, box, s: jacfast.fmn(m, x, steps=20, clip=box),
    "minimal_norm": lambda m, x, box, s: jacfast.minimal_norm(m, x, budget=40, clip=box),
    "minimal_norm-1": lambda m, x, box, s: jacfast.minimal_norm(m, x, budget=40, p=1, clip=box),
    "minimal_norm-inf": lambda m, x, box, s: jacfast.minimal_norm(
        m, x, budget=40, p=math.inf, clip=box
    ),
    "jsma": lambda m, x, box, s: jacfast.jsma(m, x, steps=9, eps=0.6 * s, clip=box),
    "deepfool": lambda m, x, box, s: jacfast.deepfool(m, x, clip=box, clip_steps=True).adversarial,
    "superdeepfool": lambda m, x, box, s: (
        jacfast.deepfool(m, x, clip=box, variant="super").adversarial
    ),
}
ALL = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def images(samples: int = 8):
    model, x = build("cnn", samples=samples)
    return model, (3 * x).sigmoid()  # some near the faces


@ALL
@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 2, 1, 1), (2, 8, 8)])
def test_normalised_images(attack, shape):
    model, x = images()
    want = attack(model, x, (0.0, 1.0), 1.0)
    low, high = (bound.expand(2, 8, 8) if len(shape) == 3 and shape[1] == 8 else bound.view(shape)
                 for bound in (LOW, HIGH))  # fmt: skip
    got = attack(lambda z: model(z * STD + MEAN), (x - MEAN) / STD, (low, high), 4.0)
    torch.testing.assert_close(got * STD + MEAN, want, rtol=0, atol=1e-5)
    assert bool((want != x).flatten(1).any(1).any())


@ALL
def test_no_channel_leaves_its_own_bounds(attack):
    model, x = images()
    high = torch.tensor([0.5, 1.0]).view(-1, 1, 1)  # float32, for float64 images
    x = torch.minimum(x, high.double())
    got = attack(model, x, (0, high), 1.0)
    assert got.dtype == x.dtype
    assert bool((got <= high).all())
    assert bool((got >= 0).all())
    assert bool((got[:, 1] > 0.5).any())
    free = attack(model, x, (0.0, 1.0), 1.0)
    assert not torch.equal(got, free)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_rounding_leads_out_of_bounds_that_are_no_round_numbers(attack, dtype):
    """x + (high - x) need not be high."""
    model, x = images()
    mean, std = (torch.tensor(t).view(-1, 1, 1) for t in ([0.485, 0.406], [0.229, 0.225]))
    low, high = ((bound - mean) / std for bound in (0, 1))
    x = ((x.float() - mean) / std).to(dtype).clamp(low.to(dtype), high.to(dtype))
    got = attack(lambda z: model(z.double() * std + mean), x, (low, high), 4.0)
    assert bool(((got >= low.to(dtype)) & (got <= high.to(dtype))).all())
    assert bool((got != x).any())


@pytest.mark.parametrize("attack", [jacfast.fgsm, jacfast.bim, jacfast.pgd])
def test_a_radius_for_each_channel(attack):
    """As for images whose channels are measured in units in which both radii are 1."""
    model, x = images()
    more = {} if attack is not jacfast.pgd else {"generator": generator()}
    got = attack(model, x, eps=EPS, clip=None, **more)
    assert bool(((got - x).abs() <= EPS + 1e-12).all())
    assert bool(((got - x).abs().amax(dim=(0, 2, 3)) > 0.9 * EPS.flatten()).all())
    if more:
        more = {"generator": generator()}
    want = attack(lambda z: model(z * EPS), x / EPS, eps=1.0, clip=None, **more) * EPS
    torch.testing.assert_close(got, want)


def test_a_step_size_and_a_change_for_each_channel():
    model, x = images()
    got = jacfast.bim(model, x, eps=1.0, steps=1, step_size=EPS, clip=None)
    torch.testing.assert_close((got - x).abs(), EPS.expand_as(x))
    got = jacfast.jsma(model, x, steps=1, eps=EPS, clip=None)
    changed = (got - x).abs() > 1e-9
    torch.testing.assert_close((got - x)[changed], EPS.expand_as(x)[changed])
    assert int(changed.sum()) >= 6


def test_a_tensor_of_one_number_is_a_number():
    model, x = images()
    want = jacfast.pgd(model, x, eps=0.3, p=2, random_start=False)
    got = jacfast.pgd(
        model, x, eps=torch.tensor(0.3, dtype=torch.float64), p=2, random_start=False,
        clip=(torch.tensor(0), torch.tensor([1.0])),
    )  # fmt: skip
    torch.testing.assert_close(got, want)


def test_pixels_survive_in_their_own_bounds():
    model, x = images()
    inside = jacfast.deepfool(model, x, clip=(0, 1), overshoot=0.1)
    want = inside.survives_rounding(model, levels=64)
    moved = jacfast.deepfool(
        lambda z: model(z * STD + MEAN), (x - MEAN) / STD, clip=(LOW, HIGH), overshoot=0.1
    )
    got = moved.survives_rounding(lambda z: model(z * STD + MEAN), levels=64, box=(LOW, HIGH))
    assert torch.equal(got, want)
    assert not torch.equal(
        moved.survives_rounding(lambda z: model(z * STD + MEAN), levels=64, box=(-9.0, 9.0)), want
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"eps": EPS, "p": 2}, "eps must be a number for p=2, or a tensor [8, 1, 1, 1]; got"),
        ({"eps": 1.0, "p": 2, "step_size": EPS}, "step_size must be a number for p=2"),
        ({"eps": 0.1, "clip": (-torch.ones(8, 1, 1, 1), 1)}, "broadcasts to a sample, [2, 8, 8]"),
        ({"eps": torch.ones(3, 1, 1)}, "broadcasts to x, [8, 2, 8, 8]"),
        ({"eps": -EPS}, "eps must be finite and >= 0; got -0.3"),
        ({"eps": EPS * math.nan}, "eps must be finite and >= 0; got nan"),
        ({"eps": 0.1, "step_size": 0 * EPS}, "step_size must be finite and > 0; got 0"),
        ({"eps": 0.1, "clip": (HIGH, LOW)}, "clip must be (low, high) with low < high"),
        ({"eps": 0.1, "clip": (LOW, LOW + EPS)}, "x must lie in the box clip = (-1.6 .. -0.8"),
        ({"eps": 0.1, "clip": (LOW, math.nan)}, "clip must be (low, high) with low < high"),
    ],
)
def test_what_fits_no_sample_is_refused(options, text):
    model, x = images()
    with pytest.raises(ValueError, match=re.escape(text)):
        jacfast.pgd(model, x, **{"clip": None, **options})


def test_a_box_without_a_face_on_one_side():
    model, x = build("cnn", samples=8, dtype=torch.float32)
    x = x.sigmoid()
    below = torch.where(x < x.median(), -1 - 1e-7, x)  # a rounding below -1
    got = jacfast.deepfool(model, below, clip=(-1, math.inf))
    assert bool(got.success.all())
    assert float(got.adversarial.min()) >= -1
    high = torch.tensor([math.inf, 1.0]).view(-1, 1, 1)
    got = jacfast.deepfool(model, x, clip=(-math.inf, high), overshoot=0.5)
    assert float(got.adversarial[:, 1].max()) <= 1
    assert float(got.adversarial[:, 0].min()) < 0


def test_images_normalised_and_taken_back_may_pass_a_bound_of_zero_by_a_rounding():
    model, x = build("cnn", samples=8, dtype=torch.float32)
    x = x.sigmoid().round()
    back = x - 6e-8 * (x == 0)  # (x - mean) / std * std + mean, for some mean and std
    got = jacfast.fgsm(model, back, eps=0.1)
    assert float(got.min()) == 0
    with pytest.raises(ValueError, match="x must lie in the box"):
        jacfast.fgsm(model, x - 1e-3, eps=0.1)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, np.float32])
def test_bounds_may_be_rounded_more_coarsely_than_the_images(kind):
    """ART keeps those of float64 images in float32: images on a face lie a rounding beyond it."""
    ends = torch.tensor([-0.7, 1.3], dtype=torch.float64)
    x = ends.repeat(2, 6).view(2, 3, 2, 2)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).double()
    if isinstance(kind, torch.dtype):
        clips = [tuple(ends.to(kind)), tuple(end.to(kind).expand(3, 1, 1) for end in ends)]
        eps = torch.finfo(kind).eps
    else:
        clips, eps = [tuple(map(kind, ends.tolist()))], np.finfo(kind).eps
    for clip in clips:
        assert float(x.max()) > float(clip[1].max())
        for attack in (jacfast.deepfool, jacfast.minimal_norm):
            attack(model, x, clip=clip)
            with pytest.raises(ValueError, match="x must lie in the box"):
                attack(model, x * (1 + 8 * eps), clip=clip)
    close = x * (1 + 1e-9)
    for exact in (ends, ends.tolist()):
        with pytest.raises(ValueError, match="x must lie in the box"):
            jacfast.deepfool(model, close, clip=tuple(exact))
