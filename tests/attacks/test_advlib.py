"""deepfool, carlini_wagner, ddn and fmn against adv-lib's own."""

import contextlib
import itertools
import re
import sys
import types
import warnings

import pytest
import torch

from jacfast import carlini_wagner, ddn, deepfool, fmn
from jacfast.attacks import PRESETS
from tests.nets import build


@pytest.fixture(scope="module")
def advlib():
    """Import adv-lib's attacks; what it imports for plots and perceptual losses is not needed.

    torchvision and visdom are left empty where they are not installed: adv-lib takes one network
    and one plotting window from them, which its DeepFool does not touch.
    """
    pytest.importorskip("adv_lib", reason="adv-lib is not installed")
    empty = {}
    for name in ("torchvision", "visdom"):
        try:
            __import__(name)
        except ImportError:
            empty[name] = types.ModuleType(name)
    if "torchvision" in empty:
        empty["torchvision"].models = types.ModuleType("torchvision.models")
    sys.modules.update(empty)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import setuptools  # noqa: F401  # distutils, which newer Pythons lack
            from adv_lib import attacks
        yield attacks
    finally:
        for name in empty:
            with contextlib.suppress(KeyError):
                del sys.modules[name]


def images(name: str, samples: int):
    """Return a network, and inputs in [0, 1] that it classifies with their labels."""
    model, x = build(name, samples)
    x = x.sigmoid()
    return model, x, model(x).argmax(dim=1)


@pytest.mark.parametrize("norm", [2, float("inf")])
@pytest.mark.parametrize("name", ["smooth_mlp", "cnn"])
def test_preset_advlib_is_df(name, norm, advlib):
    model, x, y = images(name, 30)
    want = advlib.df(model, x, y, norm=norm, return_unsuccessful=True)
    got = deepfool(model, x, y, p=norm, **PRESETS["advlib"])
    assert int(got.success.sum()) >= 20
    torch.testing.assert_close(got.adversarial[got.success], want[got.success], rtol=0, atol=1e-4)
    assert torch.equal(model(want).argmax(dim=1)[got.success], got.label[got.success])


def test_super_is_not_longer_than_sdf(advlib):
    """The rounds are joined in another way (docstring), so only the lengths are compared."""
    model, x, y = images("smooth_mlp", 30)
    model, x = model.float(), x.float()  # sdf bisects in float32
    theirs = (advlib.sdf(model, x, y) - x).flatten(1).norm(dim=1)
    ours = deepfool(model, x, y, candidates=None, clip=(0.0, 1.0), variant="super")
    fooled = ours.success & (model(x).argmax(dim=1) == y) & (theirs > 0)
    assert int(fooled.sum()) >= 20
    assert float((ours.norm / theirs)[fooled].median()) < 1.01


def test_carlini_wagner(advlib):
    """adv-lib leaves a descent when no sample of the batch falls any more; here each leaves."""
    model, x, y = images("cnn", 24)
    model, x = model.float(), x.float()
    few = {"initial_const": 0.1, "binary_search_steps": 4, "max_iterations": 150}
    want = advlib.carlini_wagner_l2(model, x, y, **few)
    got = carlini_wagner(model, x, y, initial_const=0.1, binary_steps=4, steps=150)
    fooled = model(want).argmax(dim=1) != y
    assert torch.equal(model(got).argmax(dim=1) != y, fooled)
    assert int(fooled.sum()) >= 20
    mine, theirs = ((a - x).flatten(1).norm(dim=1)[fooled].mean() for a in (got, want))
    assert float(mine / theirs) == pytest.approx(1, rel=0.03)


def greek(choices: dict) -> dict:
    """Return choices by adv-lib's names: letters where ours are words."""
    letters = {
        "alpha": "\N{GREEK SMALL LETTER ALPHA}",
        "gamma": "\N{GREEK SMALL LETTER GAMMA}",
    }
    return {
        re.sub("^(alpha|gamma)", lambda word: letters[word[0]], name): value
        for name, value in choices.items()
    }


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["smooth_mlp", "cnn"])
@pytest.mark.parametrize(
    "choices", [{"levels": None}, {"levels": 256}, {"gamma": 0.2, "init_norm": 0.3}], ids=str
)
def test_ddn_step_by_step(name, choices, targeted, advlib):
    """After any number of steps: the same points, but for the roundings of adv-lib's radii."""
    model, x, y = images(name, 20)
    labels = model(x).topk(2).indices[:, 1] if targeted else y
    given = {"target": labels} if targeted else {"y": y}
    for steps in (1, 2, 7, 30):
        want = advlib.ddn(model, x, labels, targeted=targeted, steps=steps, **greek(choices))
        got = ddn(model, x, **given, steps=steps, **choices)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert int((model(got).argmax(dim=1) != y).sum()) >= 10


FMN = [
    {},
    {"alpha_init": 0.5, "gamma_init": 0.2, "gamma_final": 0.01},
    {"alpha_init": 0.5, "alpha_final": 0.1},
]
# Each two of these four with each other.
PAIRS = [
    (FMN[i], ("smooth_mlp", "cnn")[j], (2, float("inf"))[k], (i + j + k) % 2 == 1)
    for i, j, k in itertools.product(range(3), range(2), range(2))
]


@pytest.mark.parametrize(("choices", "name", "norm", "targeted"), PAIRS, ids=str)
def test_fmn_step_by_step(choices, name, norm, targeted, advlib):
    """Its radius is Newton's step to the boundary: later on roundings decide what is beyond it."""
    model, x, y = images(name, 20)
    labels = model(x).topk(2).indices[:, 1] if targeted else y
    given = {"target": labels} if targeted else {"y": y}
    options = {"norm": norm, "targeted": targeted} | greek(choices)
    for steps in (1, 2, 3, 7):
        want = advlib.fmn(model, x, labels, steps=steps, **options)
        got = fmn(model, x, **given, p=norm, steps=steps, **choices)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    want = advlib.fmn(model, x, labels, steps=60, **options)
    got = fmn(model, x, **given, p=norm, steps=60, **choices)
    mine, theirs = ((a - x).flatten(1).norm(norm, dim=1).mean() for a in (got, want))
    assert float(mine / theirs) == pytest.approx(1, rel=0.01)
    assert int((model(got).argmax(dim=1) != y).sum()) >= 10


def test_the_radius_of_fmn_ends_at_the_farthest_corner():
    """The boundary that the slope at x speaks of is 20 away, the corner (1, 1) no more than 1.3."""

    def model(x):
        ahead = 0.05 * x @ torch.tensor([0.8, 0.6]).double() - 1 + 100 * (x[:, 0] - 0.95).relu()
        return torch.stack([0 * ahead, ahead], dim=1)

    x = torch.full((1, 2), 0.1).double()
    want = (x + 0.9 * 2**0.5 * torch.tensor([0.8, 0.6]).double()).clamp(max=1)
    torch.testing.assert_close(fmn(model, x, steps=2), want)


def test_ddn_does_not_move_where_it_has_no_gradient():
    """From 0.45 to 0.66, where all is flat up to 0.8: the radius grows, and nobody goes there."""

    def model(x):
        ahead = x[:, 0].clamp(max=0.6) - 1 + 9 * (x[:, 0] > 0.8)
        return torch.stack([0 * ahead, ahead], dim=1)

    x = torch.tensor([[0.45]]).double()
    options = {"init_norm": 0.2, "steps": 60, "levels": None}
    assert torch.equal(ddn(model, x, **options), x)
    assert float(ddn(model, x, **options | {"init_norm": 0.5})[0, 0]) > 0.8


@pytest.mark.parametrize(
    ("attack", "options", "words"),
    [
        (ddn, {"gamma": 1}, "gamma must be < 1; got 1"),
        (ddn, {"gamma": 0.0}, "gamma must be finite and > 0; got 0.0"),
        (ddn, {"init_norm": 0.0}, "init_norm must be finite and > 0; got 0.0"),
        (ddn, {"levels": 1}, "levels must be >= 2; got 1"),
        (fmn, {"gamma_init": 1.5}, "gamma_init must be < 1; got 1.5"),
        (fmn, {"gamma_final": 1}, "gamma_final must be < 1; got 1"),
        (fmn, {"alpha_init": 0.0}, "alpha_init must be finite and > 0; got 0.0"),
        (fmn, {"alpha_final": -0.1}, "alpha_final must be finite and > 0; got -0.1"),
    ],
)
def test_choices_of_no_sense_are_refused(attack, options, words):
    model, x, y = images("smooth_mlp", 2)
    with pytest.raises(ValueError, match=words):
        attack(model, x, y, **options)
