"""Robust accuracy at every eps from one run, on networks whose distances are known exactly."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import jacfast
from jacfast.evaluation import accuracy_curve, reference_epsilon
from jacfast.evaluation.distances import share_beyond
from tests.nets import draw, predicted_and_distance

ENDS = {
    "deepfool": jacfast.deepfool,
    "super": lambda *given: jacfast.deepfool(*given, variant="super"),
    "minimal_norm": jacfast.minimal_norm.result,
    "pgd": lambda *given: jacfast.pgd.result(*given, eps=0.3, random_start=False),
    "fgsm": lambda *given: jacfast.fgsm.result(*given, eps=0.3),
}

EPSILONS = torch.linspace(0, 0.5, 41, dtype=torch.float64).tolist()


def linear(p, samples=60):
    """Return a linear network, images, labels of which some are wrong, and exact distances."""
    model = nn.Linear(6, 3).double()
    model.weight.data, model.bias.data = draw(3, 6), -model.weight.data.sum(dim=1) / 2
    x = 0.5 + draw(samples, 6) / 10
    y, far = predicted_and_distance(model, x, p)
    y[::5] = (y[::5] + 1) % 3
    return model, x, y, far.where(torch.arange(samples) % 5 > 0, torch.tensor(0.0))


@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("kind", ["deepfool", "deepfool, predicted", "minimal_norm"])
def test_linear_networks_have_the_curve_of_the_formula(p, kind):
    """Lengths are at most 2% too long: the curve lies between two exact ones."""
    model, x, y, far = linear(p)
    given = None if "predicted" in kind else y
    attack = getattr(jacfast, kind.split(",")[0])
    found = attack.result(model, x, given, p=p, clip=None)
    got = accuracy_curve(model, x, y, found, EPSILONS, batch_size=7)
    least = [float(((far > eps) | (eps == 0) & (far > 0)).double().mean()) for eps in EPSILONS]
    most = [float((1.025 * far > eps).double().mean()) for eps in EPSILONS]
    assert got[0] == 0.8
    assert all(a <= b <= c for a, b, c in zip(least[1:], got[1:], most[1:], strict=True))
    half = reference_epsilon(model, x, y, found, tolerance=1e-4)
    exact = float(far.sort().values[math.ceil(len(x) / 2) - 1])
    assert exact <= half <= 1.025 * exact + 1e-4


def test_at_its_own_eps_an_attack_says_what_it_says_as_a_function():
    """x + eps rounds to a larger change than eps, which is still one of eps."""
    model, x, y, _ = linear(math.inf)
    model, x = model.float(), x.float()
    for p, eps in ((math.inf, 0.1), (2, 0.2)):
        attack = lambda m, a, b, *, eps, p=p: jacfast.pgd(m, a, b, eps=eps, p=p, random_start=False)  # noqa: E731
        found = jacfast.pgd.result(model, x, y, eps=eps, p=p, random_start=False)
        assert bool((found.norm > eps).any())
        with pytest.warns(UserWarning, match="were not fooled; they count as robust at every eps"):
            got = accuracy_curve(model, x, y, found, [0.0, eps, 9.0])
        assert got[:2] == accuracy_curve(model, x, y, attack, [0.0, eps])
        assert got[2] == got[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [2, math.inf])
def test_in_half_types_too(dtype, p):
    model, x, y, _ = linear(p)
    model, x, eps = model.to(dtype), x.to(dtype), 0.05
    attack = lambda m, a, b, *, eps: jacfast.pgd(m, a, b, eps=eps, p=p, random_start=False)  # noqa: E731
    found = jacfast.pgd.result(model, x, y, eps=eps, p=p, random_start=False)
    assert bool((found.success & (found.norm > eps)).any())
    with pytest.warns(UserWarning, match="were not fooled"):
        got = accuracy_curve(model, x, y, found, [eps])
    assert got == accuracy_curve(model, x, y, attack, [eps]) != [0.8]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["deepfool", "super", "minimal_norm"])
def test_what_was_found_at_its_length_is_not_nearer(kind, dtype):
    """Not where a rounding of the whole image is longer: 0.039 in bfloat16, 0.005 in float16."""
    model = nn.Linear(100, 2).to(dtype)
    model.weight.data.zero_()
    model.weight.data[0, 0] = 1
    model.bias.data = torch.tensor([0, 0.47]).to(dtype)
    x, y = torch.full((1, 100), 0.5, dtype=dtype), torch.tensor([0])
    found = ENDS[kind](model, x, y)
    length = float(found.norm)
    assert found.success.all()
    assert 0.029 < length < 0.1
    sizes = [0.02, 0.999 * length, 1.001 * length]
    assert accuracy_curve(model, x, y, found, sizes) == [1.0, 1.0, 0.0]
    got = jacfast.robustness_report(model, x, y, eps=[0.02], budget=40, steps=4).distances
    assert float(got["worst case"]) > 0.029


def test_a_cap_is_a_ball_too():
    model, x, y, _ = linear(2)
    model, x = model.bfloat16(), x.bfloat16()
    free = jacfast.deepfool(model, x, y, clip=None)
    cap = 0.999 * float(free.norm[free.success].median())  # x + r rounds to the image beyond it
    found = jacfast.deepfool(model, x, y, max_norm=cap, clip=None)
    assert bool((found.success & (found.norm > cap)).any())
    with pytest.warns(UserWarning, match="were not fooled"):
        (got,) = accuracy_curve(model, x, y, found, [cap])
    right = model(x).argmax(dim=1) == y
    assert got == float((right & ~found.success).double().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_radius_of_a_tensor_is_the_number_that_it_was_made_of(dtype):
    """0.1 in float32 is more than 0.1, and in bfloat16 by a thousandth."""
    model, x, y, _ = linear(math.inf)
    eps = torch.full((6,), 0.1, dtype=dtype)
    found = jacfast.fgsm.result(model, x, y, eps=eps)
    with pytest.warns(UserWarning, match="were not fooled"):
        got = accuracy_curve(model, x, y, found, [0.1])
    right = model(x).argmax(dim=1) == y
    assert got == [float((right & ~found.success).double().mean())] != [0.8]


@pytest.mark.parametrize("eps", [0.7, 0.35])
def test_sizes_in_float32_have_their_edge(eps):
    """As numbers they are less than what the attack was given."""
    model, x, y, _ = linear(math.inf)
    found = jacfast.pgd.result(model, x, y, eps=eps, random_start=False)
    of_numbers = accuracy_curve(model, x, y, found, [eps])
    assert accuracy_curve(model, x, y, found, torch.tensor([eps])) == of_numbers


def test_at_zero_it_is_the_accuracy_whatever_was_found():
    """On the boundary another batch can be of another class: so an attack finds it at 0."""
    right, far = torch.tensor([True, True, False]), torch.tensor([0.0, 1.0, 0.0]).double()
    assert share_beyond(0.0, right, far) == 2 / 3
    assert share_beyond(1e-9, right, far) == 1 / 3


def test_a_radius_is_saved_and_joined(tmp_path):
    model, x, y, _ = linear(math.inf)
    parts = [jacfast.pgd.result(model, x, y, eps=eps) for eps in (0.1, torch.full((6,), 0.2))]
    assert [part.radius for part in parts] == [0.1, pytest.approx(0.2)]
    assert type(parts[0]).cat(parts).radius == parts[1].radius
    parts[0].save(tmp_path / "found")
    assert type(parts[0]).load(tmp_path / "found").radius == 0.1
    assert jacfast.jsma.result(model, x, y, eps=0.1, steps=1).radius == math.inf


def test_who_was_not_fooled_is_counted_and_said():
    x = torch.tensor([[0.1], [0.2], [0.3], [0.4]], dtype=torch.float64)
    y = torch.tensor([0, 0, 0, 1])
    flat = lambda a: torch.cat([a, torch.where(a > 0.25, 0 * a - 9, -a)], dim=1)  # noqa: E731
    found = jacfast.fgsm.result(flat, x, y, eps=0.25, clip=None)
    with pytest.warns(UserWarning, match="1 of 4 samples are classified as y and were not fooled"):
        assert accuracy_curve(flat, x, y, found, [0, 0.2, 0.3, 10]) == [0.75, 0.75, 0.25, 0.25]


def test_who_is_wrong_at_once_is_not_among_those_that_were_not_fooled():
    """An attack that leaves predicted classes may bring such a sample to its label."""
    model = lambda a: torch.cat([2 * a, 2 - 2 * a], dim=1)  # noqa: E731
    x, y = torch.tensor([[0.4], [0.3]], dtype=torch.float64), torch.tensor([0, 1])
    found = jacfast.deepfool(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert accuracy_curve(model, x, y, found, [0.1, 0.9]) == [0.5, 0.0]


def test_a_target_that_is_missed_fools_where_the_class_changes():
    model, x, y, far = linear(2)
    target = (y + 2) % 3
    found = jacfast.deepfool(model, x, target=target, clip=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = accuracy_curve(model, x, y, found, EPSILONS)
    lost = (model(found.adversarial).argmax(dim=1) != y) & (far > 0)
    for eps, share in zip(EPSILONS[1:], got[1:], strict=True):
        want = (far > 0) & ~(lost & (found.norm <= eps))
        assert share == pytest.approx(float(want.double().mean()), abs=1e-12)


def test_other_images_are_refused():
    model, x, y, _ = linear(2)
    found = jacfast.deepfool(model, x)
    with pytest.raises(ValueError, match="x must be the images that were attacked"):
        accuracy_curve(model, x + 0.1, y, found, [0.1])
    with pytest.raises(ValueError, match="x must have the shape of what was attacked"):
        accuracy_curve(model, x[:5], y[:5], found, [0.1])


def hole(label, value=math.nan):
    """Return a network of two classes, that of 0.5 named `label`; below 0.4 logits are `value`."""

    def model(x):
        return torch.where(x < 0.4, value, torch.cat([x - 0.3, 0.3 - x], dim=1).roll(label, 1))

    return model


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ENDS)
def test_an_end_without_a_class_is_no_success_in_any_order_of_classes(kind, label, value):
    x, y = torch.full((1, 1), 0.5, dtype=torch.float64), torch.tensor([label])
    found = ENDS[kind](hole(label, value), x, y)
    assert found.success.tolist() == [False]
    assert found.label.tolist() == [label if kind == "minimal_norm" else -1]  # which stays at x
    with pytest.warns(UserWarning, match="1 of 1 samples are classified as y and were not fooled"):
        assert accuracy_curve(hole(label, value), x, y, found, [0.3, 9.0]) == [1.0, 1.0]


@pytest.mark.parametrize("label", [0, 1])
def test_nor_is_it_the_worst_case_of_a_report(label):
    x, y = torch.full((3, 1), 0.5, dtype=torch.float64), torch.full((3,), label)
    for p in (2, math.inf):
        found = jacfast.robustness_report(hole(label), x, y, p=p, eps=[0.05, 0.3])
        assert not bool(found.attacked.first.any() | found.attacked.later.any())
        assert all(bool(far.isinf().all()) for far in found.distances.values())


def test_an_image_without_a_class_is_none_that_is_classified_correctly():
    """With y given and no step taken, its class is that of the end."""
    x = torch.tensor([[0.5], [0.3]]).double()
    for label in (0, 1):
        found = jacfast.deepfool(hole(label), x, torch.full((2,), label))
        assert found.clean_label().tolist()[1] == -1


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_sizes_of_numpy(kind):
    right, far = torch.tensor([True, True, False]), torch.tensor([0.5, 2.0, 0.0])
    assert [share_beyond(kind(eps), right, far) for eps in (0, 1, 3)] == [2 / 3, 1 / 3, 0]
