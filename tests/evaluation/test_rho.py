"""rho_adv: the three conventions, on a linear model by hand."""

import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from jacfast import deepfool, rho_adv
from jacfast.evaluation import rho, rho_of
from jacfast.evaluation.rho import check_attacked
from tests.nets import build, draw

# Two classes, z = (a, b): the distance to the boundary a = b is |a - b| / sqrt(2).
X = torch.tensor([[3.0, 4.0], [5.0, 12.0], [8.0, 6.0], [4.0, -3.0]], dtype=torch.float64)
Y = torch.tensor([1, 0, 0, 1])  # the model says 1, 1, 0, 0
RATIOS = 1.02 / 2**0.5 * torch.tensor([1 / 5, 7 / 13, 2 / 10, 7 / 5], dtype=torch.float64)


def identity(x: Tensor) -> Tensor:
    return 1.0 * x


def test_all_samples():
    assert rho_adv(identity, X) == pytest.approx(float(RATIOS.mean()), rel=1e-12)
    assert rho_adv(identity, X, Y) == pytest.approx(float(RATIOS.mean()), rel=1e-12)


def test_correct_samples():
    want = float(RATIOS[[0, 2]].mean())
    assert rho_adv(identity, X, Y, over="correct") == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("labels", [None, Y], ids=["predicted", "given"])
def test_correct_samples_of_a_result(labels):
    """With labels given, misclassified samples stay where they are; they are not correct ones."""
    found = deepfool(identity, X, labels)
    want = float(RATIOS[[0, 2]].mean())
    assert rho_of(found, X, Y, over="correct") == pytest.approx(want, rel=1e-12)
    assert found.clean_label().equal(identity(X).argmax(dim=1))


def walled(x: Tensor) -> Tensor:
    """Return the logits of the identity, but constant ones for the last sample (x_1 < 0)."""
    flat = torch.tensor([1.0, 0.0], dtype=x.dtype)
    return torch.where(x[:, 1:] < 0, 0 * x + flat, x)


def test_fooled_samples():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none is missing from what was asked for
        got = rho_adv(walled, X, over="success")
    assert got == pytest.approx(float(RATIOS[:3].mean()), rel=1e-12)


def test_missed_samples_count_with_a_warning():
    ratios = RATIOS * torch.tensor([1, 1, 1, 0])
    with pytest.warns(UserWarning, match="1 of 4 samples were not fooled") as caught:
        got = rho_adv(walled, X, Y)
    assert got == pytest.approx(float(ratios.mean()), rel=1e-12)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_warning_counts_the_samples_of_the_mean():
    """Of those classified as y, three of the four, one was missed."""
    y = torch.tensor([1, 0, 0, 0])
    with pytest.warns(UserWarning, match="rho_adv: 1 of 3 samples were not fooled"):
        rho_adv(walled, X, y, over="correct")


def test_missed_samples_outside_the_mean_draw_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # sample 3, the missed one, is not classified as Y
        got = rho_adv(walled, X, Y, over="correct")
    assert got == pytest.approx(float(RATIOS[[0, 2]].mean()), rel=1e-12)


def test_options_reach_deepfool():
    got = rho_adv(identity, X, overshoot=0.5, batch_size=3)
    assert got == pytest.approx(float(RATIOS.mean()) * 1.5 / 1.02, rel=1e-12)


def test_rho_of_images():
    with pytest.raises(TypeError, match="result must be what an attack found; got Tensor"):
        rho_of(X, X)


def test_rho_of_a_result():
    model, x = build("smooth_mlp", samples=8)
    result = deepfool(model, x)
    want = (result.r.norm(dim=1) / x.norm(dim=1)).mean()
    assert rho_of(result, x) == pytest.approx(float(want), rel=1e-12)
    assert rho_adv(model, x) == pytest.approx(float(want), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip": (0.0, 1.0), "overshoot": 1.0},
        {"clip": (0.0, 1.0), "clip_steps": True},
        {"p": float("inf"), "overshoot": 50.0},
        {"variant": "super"},
        {"max_norm": 1e-3},
    ],
    ids=str,
)
def test_the_images_of_a_result_are_known_by_it(options, dtype, monkeypatch):
    """Also where entries are 0, on a face of the box, or far smaller than r; in every batch."""
    monkeypatch.setattr(rho, "BATCH", 3)
    model, x = build("cnn", samples=8, dtype=dtype)
    x = x.sigmoid()
    x[:3] = x[:3].round()
    x[3:5] *= 1e-4
    result = deepfool(model, x, **options)
    for same in (x, x.double(), x.float(), x * (1 + torch.finfo(dtype).eps)):
        check_attacked(result, same)
    off = x.clone()
    off[4] += 0.2 * (off + result.r)[4].abs().amax()
    for other in (off, x.flip(0)):
        with pytest.raises(ValueError, match=r"x must be the images that were attacked.*by up to"):
            check_attacked(result, other)


def test_images_far_larger_than_what_they_become_are_known():
    """r is as long as they are, and so are its roundings."""
    x = torch.tensor([[1 / 3]])
    result = deepfool(lambda x: torch.cat([x - 1e-4, 0 * x], dim=1), x, overshoot=1e-3)
    assert float(result.adversarial.abs()) < 1e-3
    check_attacked(result, x * (1 + torch.finfo(x.dtype).eps))


def test_images_that_are_no_floating_point_tensor_are_refused():
    result = deepfool(identity, X)
    for other, kind in ((X.tolist(), "list"), (X.long(), "torch.int64")):
        with pytest.raises(TypeError, match=f"x must be .*; got {kind}"):
            rho_of(result, other)


def test_images_longer_than_their_type_holds():
    """In float16, whose largest number is 65504; the way to the boundary is one that it holds."""
    x = 1e4 * torch.tensor([[3.0, 4.0], [5.0, 6.0]]).half()
    want = 1.02 / 2**0.5 * (1 / 5 + 1 / 61**0.5) / 2
    assert rho_adv(identity, x) == pytest.approx(want, rel=1e-3)


def test_samples_that_are_not_finite_are_let_pass():
    model, x = build("mlp", samples=4)
    x[1, 2], x[2, 3] = float("nan"), float("inf")
    check_attacked(deepfool(model, x), x)


def test_images_of_another_shape_are_refused():
    model, x = build("mlp", samples=4)
    result = deepfool(model, x)
    for other in (x[:2], x[:1], x[:, None]):
        with pytest.raises(ValueError, match=r"shape of what was attacked, \[4, 6\]; got \["):
            rho_of(result, other)
    with pytest.raises(ValueError, match=r"by up to 1$"):
        rho_of(result, x + 1)


def test_x_may_require_grad_and_have_any_shape():
    model, x = build("cnn", samples=3)
    want = rho_adv(model, x)
    assert rho_adv(model, x.requires_grad_()) == want
    assert isinstance(want, float)


def test_all_zero_sample_is_refused():
    x = X.clone()
    x[2] = 0
    with pytest.raises(ValueError, match=r"no all-zero sample .* got one at 2"):
        rho_adv(nn.Linear(2, 2).double(), x)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("over must be one of all, correct, success; got 'some'", {"over": "some"}),
        ("over='correct' needs the true labels y; got None", {"over": "correct"}),
        (
            "at least one sample; got none of 4",
            {"over": "correct", "y": 1 - Y.new_tensor([1, 1, 0, 0])},
        ),
    ],
)
def test_bad_choice_of_samples(text, arguments):
    with pytest.raises(ValueError, match=re.escape(text)):
        rho_adv(identity, X, **arguments)


def test_none_fooled_leaves_no_mean():
    with pytest.raises(ValueError, match="at least one sample; got none of 2"):
        rho_adv(lambda x: 0 * x + torch.tensor([1.0, 0.0]), draw(2, 2), over="success")


@pytest.mark.parametrize(
    ("kind", "text", "y"),
    [
        (ValueError, "y must have shape [N] = [4]; got [1]", Y[:1]),
        (ValueError, "y must have shape [N] = [4]; got [4, 1]", Y[:, None]),
        (TypeError, "y must be an int64 tensor of labels; got torch.float32", Y.float()),
        (TypeError, "y must be an int64 tensor of labels; got list", [1, 0, 0, 1]),
    ],
)
def test_bad_labels_are_refused(kind, text, y):
    with pytest.raises(kind, match=re.escape(text)):
        rho_adv(identity, X, y, over="correct")


def test_both_norms_are_those_of_p():
    """In the maximum norm the distance is |a - b| / 2."""
    want = 1.02 / 2 * (1 / 4 + 7 / 12 + 2 / 8 + 7 / 4) / 4
    assert rho_adv(identity, X, p=float("inf")) == pytest.approx(want, rel=1e-12)
