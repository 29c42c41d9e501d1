"""The rich result of every attack, by the same name and with the same figures."""

import dataclasses
import inspect
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import jacfast
from jacfast import (
    AttackResult,
    DeepFoolResult,
    bim,
    carlini_wagner,
    ddn,
    deepfool,
    evaluation,
    fgsm,
    fmn,
    jsma,
    minimal_norm,
    models,
    pgd,
)
from jacfast import data as datasets
from jacfast.ops import Nearest

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).eval()
X = torch.rand(7, 3, 2, 2)
Y = MODEL(X).argmax(dim=1)
Y[:2] = (Y[:2] + 1) % 4  # two that are misclassified as they are
TARGET = (MODEL(X).argmax(dim=1) + 1) % 4
ATTACKS = {
    "fgsm": (fgsm, {"eps": 0.3}, math.inf),
    "bim": (bim, {"eps": 0.3, "steps": 3}, math.inf),
    "pgd": (pgd, {"eps": 0.3, "random_start": False}, math.inf),
    "pgd in the 2-norm": (pgd, {"eps": 0.5, "random_start": False, "p": 2}, 2),
    "carlini_wagner": (carlini_wagner, {"steps": 30, "binary_steps": 2}, 2),
    "ddn": (ddn, {"steps": 20}, 2),
    "fmn": (fmn, {"steps": 20, "p": math.inf}, math.inf),
    "minimal_norm": (minimal_norm, {"budget": 40}, 2),
    "jsma": (jsma, {"steps": 4}, 0),
    "deepfool": (deepfool, {}, 2),
}


@pytest.mark.parametrize("labels", ["predicted", "true", "target"])
@pytest.mark.parametrize("name", ATTACKS)
def test_against_the_images_and_figures_by_hand(name, labels):
    attack, options, p = ATTACKS[name]
    given = {"predicted": {}, "true": {"y": Y}, "target": {"target": TARGET}}[labels]
    state = torch.get_rng_state()
    found = attack.result(MODEL, X, **given, **options)
    assert isinstance(found, AttackResult)
    assert torch.equal(torch.get_rng_state(), state)
    images = attack(MODEL, X, **given, **options)
    images = images.adversarial if attack is deepfool else images
    assert torch.equal(found.adversarial, images)
    assert torch.equal(found.r, images - X)
    rows = (images - X).flatten(1)
    by_hand = {
        math.inf: rows.abs().amax(dim=1),
        2: rows.square().sum(dim=1).sqrt(),
        0: (rows != 0).sum(dim=1).float(),
    }[p]
    torch.testing.assert_close(found.norm, by_hand)
    assert found.p == p
    label, clean = MODEL(images).argmax(dim=1), MODEL(X).argmax(dim=1)
    assert torch.equal(found.label, label)
    if labels == "target":
        assert torch.equal(found.success, label == TARGET)
    else:
        leave = Y if labels == "true" else clean
        assert torch.equal(found.before, leave)
        assert torch.equal(found.success, label != leave)
    assert not any(t.requires_grad for t in found.tensors().values())


def test_further_arguments_and_the_way_they_are_given():
    def shifted(x, by, double=False):
        return {"a": x, "logits": MODEL((2 if double else 1) * x + by)}

    by = 0.1 * torch.rand_like(X)
    further = {"args": (by,), "kwargs": {"double": True}, "output": "logits"}
    found = fgsm.result(model=shifted, x=X, y=Y, eps=0.2, **further)
    assert torch.equal(found.adversarial, fgsm(shifted, X, Y, eps=0.2, **further))
    label = MODEL(2 * found.adversarial + by).argmax(dim=1)
    assert torch.equal(found.label, label)
    assert found.survives_rounding(shifted, levels=2**20, **further).tolist() == (
        found.success.tolist()
    )
    with pytest.raises(TypeError, match="eps"):
        fgsm.result(MODEL, X)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Dropout(0.5)).train()
    model[1].weight.requires_grad_(False)
    found = pgd.result(model, X, eps=0.1)
    assert model.training
    assert model[2].training
    assert [p.requires_grad for p in model.parameters()] == [False, True]
    assert torch.equal(found.label, model.eval()(found.adversarial).argmax(dim=1))


@pytest.mark.parametrize("name", ATTACKS)
def test_saved_loaded_joined(name, tmp_path):
    attack, options, _ = ATTACKS[name]
    found = attack.result(MODEL, X, **options)
    kind = type(found)
    found.save(tmp_path / "found.safetensors")
    again = kind.load(tmp_path / "found.safetensors")
    halves = [attack.result(MODEL, half, **options) for half in (X[:3], X[3:])]
    joined = kind.cat(halves)
    for key, value in found.tensors().items():
        assert torch.equal(getattr(again, key), value)
        parts = torch.cat([getattr(half, key) for half in halves])
        torch.testing.assert_close(getattr(joined, key), parts, rtol=0, atol=0, equal_nan=True)
    assert again.p == joined.p == found.p
    other = AttackResult if kind is DeepFoolResult else DeepFoolResult
    with pytest.raises(ValueError, match=f"path must be a file that {other.__name__}.save wrote"):
        other.load(tmp_path / "found.safetensors")
    assert f"||r||_{found.p:g}, mean" in found.summary()
    assert pickle.loads(pickle.dumps(attack.result)) is attack.result


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_numbers_of_numpy_are_saved_as_those_of_python(kind, tmp_path):
    for attack in (deepfool, minimal_norm, fmn, pgd):
        size = {deepfool: {"max_norm": kind(2)}, pgd: {"eps": kind(2)}}.get(attack, {})
        found = attack.result(MODEL, X, p=kind(2), **size)
        assert type(found.p) is type(found.radius) is float
        found.save(tmp_path / "found.safetensors")
        again = type(found).load(tmp_path / "found.safetensors")
        assert (again.p, again.radius) == (found.p, found.radius) == (2, 2 if size else math.inf)
    replaced = dataclasses.replace(found, p=kind(3), radius=kind(4))
    assert replaced.about() == dataclasses.replace(found, p=3, radius=4).about()


def test_the_signature_is_that_of_the_attack():
    for attack, _, _ in ATTACKS.values():
        own, result = inspect.signature(attack), inspect.signature(attack.result)
        assert result.parameters == own.parameters


def results():
    y = MODEL(X).argmax(dim=1)
    direction = torch.ones_like(X[:1])
    yield fgsm.result(MODEL, X, eps=0.1)
    yield deepfool(MODEL, X)
    yield jacfast.distance_bounds(MODEL, X)
    yield evaluation.decision_line(MODEL, X[:1], y[:1], direction, [0.0, 0.1])
    yield evaluation.jacobian_statistics(torch.rand(3, 12), 0.1)
    yield evaluation.input_surface(MODEL, X[:1], y[:1], torch.rand(2, 3, 2, 2), 1.0, points=3)
    yield evaluation.mean_value_bound(MODEL, X, X + 0.1)
    yield datasets.Split(X, y, X, y, 4, "mine")
    yield Nearest(X, y, y, y)


@pytest.mark.parametrize("found", [*results()], ids=lambda found: type(found).__name__)
def test_repr_is_a_line(found):
    text = repr(found)
    assert text.startswith(f"{type(found).__name__}(")
    assert "\n" not in text
    assert len(text) < 300
    assert "tensor(" not in text


def test_repr_says_how_many_were_fooled_and_how_far():
    found = fgsm.result(MODEL, X, eps=0.25, clip=None)
    fooled = 100 * float(found.success.double().mean())
    words = f"AttackResult(float32[7, 3, 2, 2], {fooled:.4g}% fooled, their mean ||r||_inf 0.25)"
    assert repr(found) == words


def found_one_of(norms, success):
    """Return a result of some norms, as an attack that returns x where it finds nothing has it."""
    r = torch.tensor(norms)[:, None] * torch.tensor([1.0, 0.0])
    label = torch.tensor(success).long()
    return AttackResult(r, r, r.norm(dim=1), label.bool(), 0 * label, label)


def test_norms_are_those_of_the_fooled_alone():
    """Where nothing is found the distance is unknown: as 0 it would make weak attacks strong."""
    found = found_one_of([3.0, 0.0, 1.0, 8.0, 0.0], [True, False, True, True, False])
    figures = found.figures()
    assert figures["samples"] == 5
    assert figures["fooled, %"] == 60
    assert figures["||r||_2, mean of fooled"] == 4
    assert figures["||r||_2, median of fooled"] == 3
    assert figures["||r||_2, largest of fooled"] == 8
    assert "60% fooled, their mean ||r||_2 4)" in repr(found)
    capped = deepfool(MODEL, X, max_norm=float(deepfool(MODEL, X).norm.median()))
    assert set(capped.success.tolist()) == {False, True}  # the others have an r, too
    assert capped.figures()["||r||_2, mean of fooled"] == pytest.approx(
        float(capped.norm[capped.success].mean())
    )


def test_norms_of_nobody_are_no_numbers():
    found = found_one_of([0.0, 0.0], [False, False])
    norms = {name: value for name, value in found.figures().items() if name.startswith("||r||")}
    assert len(norms) == 3
    assert all(math.isnan(value) for value in norms.values())
    assert found.summary().count("nan") == 3
    assert "0% fooled, their mean ||r||_2 nan)" in repr(found)


@pytest.mark.parametrize(("attack", "options", "_p"), ATTACKS.values(), ids=ATTACKS)
def test_a_result_shares_no_memory_with_what_was_given(attack, options, _p):
    """Loops fill one buffer of images and one of labels with the next batch."""
    x, y = X.clone(), Y.clone()
    found = attack.result(MODEL, x, y, **options)
    kept = {name: tensor.clone() for name, tensor in found.tensors().items()}
    x.zero_()
    y.fill_(3)
    for name, tensor in found.tensors().items():
        assert torch.equal(tensor, kept[name]), name


def test_results_in_two_norms_are_not_joined():
    found = fgsm.result(MODEL, X, eps=0.1)
    other = pgd.result(MODEL, X, eps=0.1, p=2)
    with pytest.raises(ValueError, match=r"parts must be .* one norm; got p = \[2.0, inf\]"):
        AttackResult.cat([found, other])
    with pytest.raises(ValueError, match=r"parts must be .* one norm; got p = \[\]"):
        AttackResult.cat([])


def test_a_save_that_is_interrupted_leaves_the_file_of_before(tmp_path, monkeypatch):
    import safetensors.torch

    path = tmp_path / "found.safetensors"
    before, after = (fgsm.result(MODEL, X, eps=eps) for eps in (0.1, 0.2))
    before.save(path)

    def killed(_tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        after.save(path)
    assert torch.equal(AttackResult.load(path).adversarial, before.adversarial)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("attack", [deepfool.result, minimal_norm.result])
def test_who_is_fooled_from_the_start_is_in_no_figure(attack):
    torch.manual_seed(0)
    model, x = models.mlp(16, 8, 4).double().eval(), torch.rand(20, 16).double()
    y = model(x).argmax(1)
    y[:10] = (y[:10] + 1) % 4
    found, alone = attack(model, x, y).figures(), attack(model, x[10:], y[10:]).figures()
    assert found.pop("samples") == 20
    assert alone.pop("samples") == 10
    for name in ("fooled, %", "||r||_2, mean of fooled", "||r||_2, median of fooled"):
        assert found[name] == pytest.approx(alone[name])


def test_what_is_not_possible_is_said_by_the_names_of_the_caller(tmp_path):
    """A missing folder, and an option that there is not: no words of a writer or of Python."""
    x = torch.rand(2, 3)
    with pytest.raises(TypeError, match=r"^fgsm takes no option epsilon; it takes model, x, y, "):
        jacfast.fgsm.result(nn.Linear(3, 2), x, epsilon=0.1)
    found = jacfast.fgsm.result(nn.Linear(3, 2), x, eps=0.1)
    for path in (tmp_path / "no" / "f", tmp_path):
        with pytest.raises(ValueError, match=r"^path must be a file in a folder that exists"):
            found.save(path)
