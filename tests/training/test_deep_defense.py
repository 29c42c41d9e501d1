"""deep_defense_penalty against an unrolled DeepFool, numerical derivatives and results by hand."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from jacfast import deep_defense_penalty, deepfool
from tests.nets import RTOL, relative_error
from tests.training.unrolled import gradients, problem, two_classes, unrolled_penalty

D = 0.5  # untrained networks have distant boundaries: with d = 5, exp(d rho) is clamped

NETS = ("mlp", "smooth_mlp", "cnn", "conv_batch_norm", "layer_norm_gelu", "attention")


@pytest.mark.parametrize("linked", [True, False], ids=["linked", "apart"])
@pytest.mark.parametrize("name", NETS)
def test_value_and_gradient_are_those_of_the_unrolled_attack(name, linked):
    model, x, y = problem(name, rank=2)
    want, steps = unrolled_penalty(model, x, y, d=D, linked=linked)
    assert max(steps) > 1  # so that steps can be linked
    got = deep_defense_penalty(model, x, y, d=D, linked=linked)
    assert relative_error(got, want) < 1e-12
    for a, b in zip(gradients(got, model), gradients(want, model), strict=True):
        assert relative_error(a, b) < 1e-8


def test_linked_steps_have_another_gradient():
    model, x, y = problem("smooth_mlp")
    linked, apart = (deep_defense_penalty(model, x, y, d=D, linked=flag) for flag in (True, False))
    assert torch.equal(linked, apart)
    pairs = zip(gradients(linked, model), gradients(apart, model), strict=True)
    assert max(relative_error(a, b) for a, b in pairs) > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 1},
        {"steps": 2, "overshoot": 0.0},
        {"overshoot": 0.3},
        {"candidates": 2},
        {"candidates": 3, "c": 3.0, "d": 0.2},
    ],
    ids=str,
)
def test_options(options):
    model, x, y = problem("smooth_mlp", rank=2)
    options = {"d": D} | options
    want, _ = unrolled_penalty(model, x, y, **options)
    got = deep_defense_penalty(model, x, y, **options)
    assert relative_error(got, want) < 1e-12
    for a, b in zip(gradients(got, model), gradients(want, model), strict=True):
        assert relative_error(a, b) < 1e-8


@pytest.mark.parametrize("name", ["mlp", "smooth_mlp", "cnn"])
def test_differentiated_numerically(name):
    model, x, y = problem(name, samples=3)
    names = [n for n, _ in model.named_parameters()]

    def value(*params: Tensor) -> Tensor:
        held = dict(zip(names, params, strict=True))
        return deep_defense_penalty(lambda at: functional_call(model, held, at), x, y, d=D)

    leaves = tuple(p.detach().clone().requires_grad_() for p in model.parameters())
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)  # in random directions


def test_by_hand():
    """rho = 1.02 |f| / (||w|| ||x||): 1.02 / (5 sqrt 2) and 7 * 1.02 / (13 sqrt 2)."""
    x, y = torch.tensor([[3.0, 4.0], [5.0, 12.0]], dtype=torch.float64), torch.tensor([1, 0])
    right, wrong = 1.02 / (5 * 2**0.5), 7 * 1.02 / (13 * 2**0.5)
    value = deep_defense_penalty(two_classes(), x, y)
    assert value.item() == pytest.approx((math.exp(-25 * right) + math.exp(5 * wrong)) / 2)


def test_rho_is_that_of_deepfool():
    """Also for three classes, where a wrong sample may pass through a third one."""
    model, x, y = problem("smooth_mlp", 30, rank=2)
    same = {"linearize": "plain", "steps": 5}
    away, back = deepfool(model, x, y, **same), deepfool(model, x, target=y, **same)
    right = model(x).argmax(dim=1) == y
    assert 0 < right.sum() < 30
    size = x.norm(dim=1)
    want = torch.where(right, torch.exp(-away.norm / size), torch.exp(2 * back.norm / size)).mean()
    assert relative_error(deep_defense_penalty(model, x, y, c=1, d=2), want) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype):
    model, x, y = problem("cnn", dtype=dtype)
    wide = copy.deepcopy(model).double()
    got, want = deep_defense_penalty(model, x, y), deep_defense_penalty(wide, x.double(), y)
    assert got.dtype == torch.float32
    assert relative_error(got, want) < 3 * RTOL[dtype]
    grads, wants = (torch.cat([g.flatten().double() for g in gradients(v, m)])
                    for v, m in ((got, model), (want, wide)))  # fmt: skip
    assert relative_error(grads, wants) < 10 * RTOL[dtype]


def test_autocast():
    model, x, y = problem("mlp", dtype=torch.float32)
    want = deep_defense_penalty(model, x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = deep_defense_penalty(model, x, y)
    assert got.dtype == torch.float32
    assert relative_error(got, want) < 3 * RTOL[torch.bfloat16]
    assert all(g.isfinite().all() for g in gradients(got, model))


def test_compiled_models_run_as_they_were():
    model, x, y = problem("smooth_mlp")
    want = deep_defense_penalty(model, x, y, d=D)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    got = deep_defense_penalty(compiled, x, y, d=D)
    for a, b in zip(gradients(got, model), gradients(want, model), strict=True):
        assert torch.equal(a, b)
    torch._dynamo.reset()


def test_layouts_and_one_sample():
    model, x, y = problem("cnn")
    want = deep_defense_penalty(model, x, y)
    for view in (x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        assert relative_error(deep_defense_penalty(model, view, y), want) < 1e-12
    alone = [deep_defense_penalty(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    assert relative_error(torch.stack(alone).mean(), want) < 1e-12
