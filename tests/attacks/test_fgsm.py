"""fgsm: the formula, its box and labels."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import bim, carlini_wagner, ddn, deepfool, fgsm, fmn, jsma, minimal_norm, pgd
from tests.nets import build, draw

Y = torch.tensor([1, 4, 0, 2])


def by_hand(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """x + eps sign(d CE(model(x_i), y_i)/dx_i), one sample at a time."""
    moved = []
    for sample, label in zip(x, y, strict=True):
        leaf = sample[None].clone().requires_grad_()
        F.cross_entropy(model(leaf), label[None]).backward()
        moved.append((leaf + eps * leaf.grad.sign()).detach()[0])
    return torch.stack(moved)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_formula(name, dtype):
    model, x = build(name, dtype=dtype)
    got = fgsm(model, x, Y, eps=0.25, clip=None)
    assert got.dtype == dtype
    torch.testing.assert_close(got, by_hand(copy.deepcopy(model), x, Y, 0.25))
    assert not got.requires_grad


def test_linear_model_in_closed_form():
    """Two classes: the gradient of the loss of class 0 is p_1 (w_1 - w_0)."""
    model = nn.Linear(3, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, 5.0, 0.0], [3.0, 1.0, 0.0]])
    x = torch.tensor([[0.5, 0.5, 0.5]])
    got = fgsm(model, x, torch.tensor([0]), eps=0.125)
    assert torch.equal(got, torch.tensor([[0.625, 0.375, 0.5]]))


def test_box():
    model, x = build("mlp")
    x = x.sigmoid()
    free = fgsm(model, x, Y, eps=0.5, clip=None)
    assert bool(((free < 0) | (free > 1)).any())
    assert torch.equal(fgsm(model, x, Y, eps=0.5), free.clamp(0, 1))
    assert torch.equal(fgsm(model, x, Y, eps=0.5, clip=(-0.1, 0.95)), free.clamp(-0.1, 0.95))


def test_predicted_labels_by_default():
    model, x = build("mlp")
    predicted = model(x).argmax(dim=1)
    assert not torch.equal(predicted, Y)
    assert torch.equal(
        fgsm(model, x, eps=0.1, clip=None), fgsm(model, x, predicted, eps=0.1, clip=None)
    )
    assert not torch.equal(
        fgsm(model, x, eps=0.1, clip=None), fgsm(model, x, Y, eps=0.1, clip=None)
    )


def test_zero_eps_moves_nothing():
    model, x = build("mlp")
    assert torch.equal(fgsm(model, x, eps=0.0, clip=None), x)


def test_inside_no_grad_and_with_a_frozen_model():
    model, x = build("mlp")
    want = fgsm(model, x, Y, eps=0.1, clip=None)
    with torch.no_grad():
        assert torch.equal(fgsm(model.requires_grad_(False), x, Y, eps=0.1, clip=None), want)


def test_nothing_is_changed():
    model, x = build("conv_batch_norm")
    want = fgsm(model, x, Y, eps=0.1, clip=None)
    model.train()
    x = x.requires_grad_()
    kept, before = x.detach().clone(), copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match="evaluated in eval mode"):
        assert torch.equal(fgsm(model, x, Y, eps=0.1, clip=None), want)
    assert torch.equal(x, kept)
    assert x.grad is None
    assert x.requires_grad
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "text", "arguments"),
    [
        (ValueError, "eps must be finite and >= 0; got -0.1", {"eps": -0.1}),
        (ValueError, "eps must be finite and >= 0; got nan", {"eps": float("nan")}),
        (ValueError, "eps must be finite and >= 0; got inf", {"eps": float("inf")}),
        (ValueError, "clip must be (low, high) with low < high; got (1", {"clip": (1, 0)}),
        (ValueError, "clip must be (low, high) with low < high", {"clip": (0.5, 0.5)}),
        (TypeError, "y must be an int64 tensor of labels; got torch.float32", {"y": Y.float()}),
        (TypeError, "y must be an int64 tensor of labels; got list", {"y": [1, 2, 3, 4]}),
        (ValueError, "y must have shape [N] = [4]; got [3]", {"y": Y[:3]}),
        (ValueError, "y must have shape [N] = [4]; got [4, 1]", {"y": Y[:, None]}),
        (ValueError, "y must lie in 0 .. K - 1 = 4; got 1 .. 5", {"y": Y + 1}),
        (ValueError, "y must lie in 0 .. K - 1 = 4; got -1 .. 3", {"y": Y - 1}),
        (TypeError, "x must be floating point", {"x": torch.ones(4, 6, dtype=torch.uint8)}),
        (ValueError, "x must be a non-empty batch", {"x": draw(0, 6)}),
        (ValueError, "one row of logits per sample", {"model": lambda x: x.sum()}),
        (TypeError, "floating-point logits; got torch.int64", {"model": lambda x: x.long()}),
        (TypeError, "eps must be a number; got str", {"eps": "0.1"}),
        (
            ValueError,
            "eps must be a number, or a tensor that broad",
            {"eps": torch.full((4,), 0.1)},
        ),
        (ValueError, "eps must be finite and >= 0; got -0.1", {"eps": torch.full((6,), -0.1)}),
        (ValueError, "with low < high; got 0.5, no tuple", {"clip": 0.5}),
        (ValueError, "got a tensor of shape [2], no tuple", {"clip": torch.tensor([0.0, 1.0])}),
        (ValueError, "clip must be (low, high) with low < high", {"clip": (0, 0.5, 1)}),
        (
            TypeError,
            "clip must hold numbers or tensors, (low, high); got NoneType",
            {"clip": (None, 1)},
        ),
        (
            TypeError,
            "clip must hold numbers or tensors, (low, high); got ndarray",
            {"clip": (np.zeros(3), np.ones(3))},
        ),
        (ValueError, "clip must be (low, high)", {"clip": (torch.zeros(6), torch.zeros(6))}),
        (ValueError, "clip must be (low, high) of one", {"clip": (torch.zeros(6), torch.ones(4))}),
        (ValueError, "clip must be a number, or a tensor", {"clip": (torch.zeros(4), 1)}),
    ],
)
def test_bad_input_is_refused(kind, text, arguments):
    model, x = build("mlp")
    with pytest.raises(kind, match=re.escape(text)):
        fgsm(**{"model": model, "x": x, "y": Y, "eps": 0.1, "clip": None, **arguments})


def test_model_that_ignores_x_is_refused_in_words():
    with pytest.raises(ValueError, match="do not depend on x"):
        fgsm(lambda x: torch.zeros(len(x), 5, dtype=x.dtype), draw(4, 6), Y, eps=0.1, clip=None)


@pytest.mark.parametrize(
    "attack", [lambda m, x: fgsm(m, x, eps=0.1), lambda m, x: deepfool(m, x, clip=(0, 1))]
)
def test_inputs_outside_the_box_are_refused(attack):
    """Normalised images with the box of raw ones: clipping would silently change every pixel."""
    x = torch.linspace(-2, 2.5, 12).view(2, 6)
    with pytest.raises(ValueError, match=r"x must lie in the box clip = .*; got -2 \.\. 2\.5"):
        attack(torch.nn.Linear(6, 3), x)


def test_a_nan_hides_nothing_outside_the_box():
    x = torch.full((2, 6), 0.5)
    x[0, 0], x[1, 3] = float("nan"), 1.5
    with pytest.raises(ValueError, match=r"x must lie in the box .*; got 1\.5 \.\. 1\.5"):
        fgsm(torch.nn.Linear(6, 3), x, eps=0.1)


BOXED = {
    "fgsm": lambda m, x, box: fgsm(m, x, eps=0.1, clip=box),
    "bim": lambda m, x, box: bim(m, x, eps=0.1, clip=box),
    "pgd": lambda m, x, box: pgd(m, x, eps=0.1, clip=box),
    "carlini_wagner": lambda m, x, box: carlini_wagner(
        m, x, steps=30, lr=0.1, binary_steps=3, initial_const=10.0, clip=box, abort_early=False
    ),
    "ddn": lambda m, x, box: ddn(m, x, steps=10, clip=box),
    "fmn": lambda m, x, box: fmn(m, x, steps=30, p=float("inf"), clip=box),
    "minimal_norm": lambda m, x, box: minimal_norm(m, x, budget=20, clip=box),
    "jsma": lambda m, x, box: jsma(m, x, steps=2, clip=box),
    "deepfool": lambda m, x, box: deepfool(m, x, clip=box).adversarial,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attack", BOXED.values(), ids=BOXED)
def test_a_box_that_x_passes_by_rounding(attack, dtype):
    """Images normalised in their dtype, the box as Python computes it."""
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3).to(dtype)
    for mean, std in ((0.1307, 0.3081), (0.485, 0.229), (0.406, 0.225)):
        x = torch.rand(8, 6).to(dtype)
        x[:, :3] = x[:, :3].round()
        x = (x - torch.tensor(mean, dtype=dtype)) / torch.tensor(std, dtype=dtype)
        got = attack(lambda at: 4 * model(at), x, ((0 - mean) / std, (1 - mean) / std))
        assert bool(got.isfinite().all())
        assert bool((got != x).any())
