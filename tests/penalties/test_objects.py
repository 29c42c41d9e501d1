"""The penalties as objects: options are checked when they are made; frozen and hashable."""

import dataclasses
import re

import pytest
import torch
from torch import Tensor, nn

from jacfast import (
    WGANGP,
    CrossLipschitz,
    DecisionFunction,
    EntrywiseL1,
    Frobenius,
    InputGradient,
    Spectral,
    forward_with_penalty,
)
from jacfast.penalties import Penalty
from tests.nets import relative_error
from tests.penalties.formulas import EVERY_CLASS, PENALTIES, labelled

NAN = float("nan")


def refuses(kind: type[Exception], text: str):
    return pytest.raises(kind, match=re.escape(text))


def test_weights_when_made():
    for weights in (
        torch.tensor([1.0, -1e-9]),
        torch.tensor([1.0, float("nan")]),
        torch.tensor([1.0, float("inf")]),
        torch.ones(2, 2),
        torch.tensor(1.0),
    ):
        with refuses(ValueError, "weights must be [K] finite numbers >= 0; got"):
            Frobenius(weights=weights)
    with refuses(TypeError, "weights must be float32, float64, float16 or bfloat16; got torch.int"):
        Frobenius(weights=torch.ones(5, dtype=torch.int64))
    with refuses(TypeError, "weights must be a torch.Tensor; got list"):
        Frobenius(weights=[1.0] * 5)


@pytest.mark.parametrize("norm", ["L1", "l3", 1, None])
def test_unknown_norm(norm):
    with refuses(ValueError, f"norm must be one of l1, l2, linf; got {norm!r}"):
        DecisionFunction(norm)


@pytest.mark.parametrize("norm", ["l1", "2", 3, True, None, float("inf")])
def test_unknown_norm_of_the_input_gradient(norm):
    with refuses(ValueError, f"norm must be one of squared, 1, 2; got {norm!r}"):
        InputGradient(norm)


@pytest.mark.parametrize("target", [-0.1, NAN, float("inf")])
def test_target(target):
    with refuses(ValueError, f"target must be finite and >= 0; got {target}"):
        WGANGP(target)
    with refuses(ValueError, f"target must be finite and >= 0; got {target}"):
        WGANGP(torch.tensor(target, dtype=torch.float64))


def test_iterations():
    for iterations in (0, -1):
        with refuses(ValueError, f"iterations must be >= 1; got {iterations}"):
            Spectral(iterations)
    for iterations in (True, 1.0, "exact", None):
        with refuses(TypeError, f"iterations must be an integer; got {iterations!r}"):
            Spectral(iterations)


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_subsample_and_every(kind):
    for subsample in (0, -0.1, 1.0001, 2, NAN):
        with refuses(ValueError, f"subsample must be in (0, 1]; got {subsample}"):
            kind(subsample=subsample)
    for every in (0, -1):
        with refuses(ValueError, f"every must be >= 1; got {every}"):
            kind(every=every)
    for every in (True, 1.0, "2"):
        with refuses(TypeError, f"every must be an integer; got {every!r}"):
            kind(every=every)


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_subsample_and_every_do_not_go_with_a_call(kind):
    model, x, y, _ = labelled("mlp")
    for options in ({"subsample": 0.5}, {"every": 2}):
        with refuses(ValueError, "use forward_with_penalty; got"):
            kind(**options)(model(x), x, y)
    assert kind(subsample=1, every=1)(model(x), x, y) > 0


def test_the_root_of_a_part():
    with refuses(ValueError, "subsample must be 1 with root=True"):
        Frobenius(root=True, subsample=0.5)
    assert Frobenius(root=True, every=2).every == 2


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_are_frozen_and_hashable(name):
    penalty: Penalty = PENALTIES[name]
    for field in dataclasses.fields(penalty):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(penalty, field.name, None)
    other = dataclasses.replace(penalty)
    assert other == penalty
    assert len({penalty, other, dataclasses.replace(penalty, every=7)}) == 2


def test_options_tell_objects_apart():
    objects = [Frobenius(), Frobenius(2), Frobenius("exact"), Frobenius(root=True)]
    objects += [CrossLipschitz(), EntrywiseL1(1), Spectral(1), Spectral(2), InputGradient()]
    objects += [DecisionFunction("l1"), DecisionFunction("l2")]
    assert len(set(objects)) == len(objects)


def test_objects_with_weights_can_be_compared():
    weights = torch.ones(5)
    assert Frobenius(weights=weights) == Frobenius(weights=weights.clone())
    assert Frobenius(2, weights=weights) != Frobenius(weights=weights.clone())


class Rooted(Frobenius):
    """Another rho, of a class whose own one is the sum of squares as it is."""

    def measure(self, g: Tensor) -> Tensor:
        return (1 + super().measure(g)).sqrt()


class Absolute(Frobenius):
    kind = "sumabs"


class _Root:
    def measure(self, g: Tensor) -> Tensor:
        return (1 + g.square().sum(1)).sqrt()


class BesideFirst(_Root, Frobenius):
    """Its rho is that of a class which is no penalty."""


class _Sum(Penalty):
    kind = "sumabs"


class BesideLast(Frobenius, _Sum):
    """Its rho is that of a class behind the one that speaks of squares."""


class Again(Rooted, Frobenius):
    pass


OTHERS = [Rooted(), Rooted("exact"), Absolute("exact"), Absolute()]
OTHERS += [BesideFirst(), BesideLast(), BesideLast("exact"), Again("exact")]


@pytest.mark.parametrize("penalty", OTHERS, ids=lambda p: f"{type(p).__name__} {p.n}")
@pytest.mark.parametrize("inputs", [6, 600])
def test_another_rho_than_the_class_it_is_derived_from(penalty, inputs):
    """Small steps, and those whose first layer has a Gram matrix, have a cheaper sum of squares."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, 40), nn.ReLU(), nn.Linear(40, 8)).double()
    samples = 64 if inputs == 6 else 300
    x = torch.randn(samples, inputs, dtype=torch.float64)
    found = []
    for fast in (True, False):
        torch.manual_seed(1)
        if fast:
            value = forward_with_penalty(model, x, penalty=penalty)[1]
        else:
            value = penalty(model(x.requires_grad_()), x)
        weights = torch.autograd.grad(value, [model[0].weight, model[2].weight])
        found.append(torch.cat([value.detach()[None], *(g.flatten() for g in weights)]))
    assert relative_error(*found) < 1e-12


class Thrice(Frobenius):
    def collect(self, sizes: Tensor) -> Tensor:
        return 3 * super().collect(sizes)


@pytest.mark.parametrize("n", [1, "exact"])
def test_another_sum_than_the_class_it_is_derived_from(n):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 8)).double()
    x = torch.randn(64, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for penalty in (Thrice(n), Frobenius(n)):
        torch.manual_seed(1)
        found.append(penalty(model(x), x))
        torch.manual_seed(1)
        found.append(forward_with_penalty(model, x, penalty=penalty)[1])
    ratios = [one.item() / found[-1].item() for one in found]
    assert ratios == pytest.approx([3, 3, 1, 1], rel=1e-12)
