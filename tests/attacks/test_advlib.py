"""deepfool and carlini_wagner against adv-lib's own."""

import contextlib
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
    want = advlib.carlini_wagner_l2(model, x, y, binary_search_steps=7, max_iterations=150)
    got = carlini_wagner(model, x, y, binary_steps=7, steps=150)
    fooled = model(want).argmax(dim=1) != y
    assert torch.equal(model(got).argmax(dim=1) != y, fooled)
    assert int(fooled.sum()) >= 20
    mine, theirs = ((a - x).flatten(1).norm(dim=1)[fooled].mean() for a in (got, want))
    assert float(mine / theirs) == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["smooth_mlp", "cnn"])
@pytest.mark.parametrize("levels", [None, 256])
def test_ddn_step_by_step(name, levels, targeted, advlib):
    """After any number of steps: the same points, but for the roundings of adv-lib's radii."""
    model, x, y = images(name, 20)
    labels = model(x).topk(2).indices[:, 1] if targeted else y
    given = {"target": labels} if targeted else {"y": y}
    for steps in (1, 2, 7, 30):
        want = advlib.ddn(model, x, labels, targeted=targeted, steps=steps, levels=levels)
        got = ddn(model, x, **given, steps=steps, levels=levels)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert int((model(got).argmax(dim=1) != y).sum()) >= 10


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["smooth_mlp", "cnn"])
@pytest.mark.parametrize("norm", [2, float("inf")])
def test_fmn_step_by_step(name, norm, targeted, advlib):
    """Its radius is Newton's step to the boundary: later on roundings decide what is beyond it."""
    model, x, y = images(name, 20)
    labels = model(x).topk(2).indices[:, 1] if targeted else y
    given = {"target": labels} if targeted else {"y": y}
    for steps in (1, 2, 3, 7):
        want = advlib.fmn(model, x, labels, norm=norm, targeted=targeted, steps=steps)
        got = fmn(model, x, **given, p=norm, steps=steps)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    want = advlib.fmn(model, x, labels, norm=norm, targeted=targeted, steps=60)
    got = fmn(model, x, **given, p=norm, steps=60)
    mine, theirs = ((a - x).flatten(1).norm(norm, dim=1).mean() for a in (got, want))
    assert float(mine / theirs) == pytest.approx(1, rel=0.01)
    assert int((model(got).argmax(dim=1) != y).sum()) >= 10
