"""Options of the adapters: the toolbox's names, and wrong ones refused when the attack is made."""

import re
from functools import partial, wraps

import pytest
import torch
from torch import nn

from jacfast import deepfool, minimal_norm
from jacfast.attacks import PRESETS
from jacfast.attacks.adapters import for_art, for_attackbench, for_foolbox, for_torchattacks
from jacfast.attacks.adapters.choices import ATTACKS
from tests.nets import build


def images():
    model, x = build("cnn", 8, torch.float32)
    x = x.sigmoid()
    return model.eval(), x, model(x).argmax(dim=1)


def make(toolbox: str, **options):
    """Return a function of x and y with the attack of the toolbox, which is made now."""
    model, _, _ = images()
    pytest.importorskip(toolbox, reason=f"{toolbox} is an optional rival")
    if toolbox == "foolbox":
        import foolbox

        attack = for_foolbox(**options)
        peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return lambda x, y: attack(peer, x, y, epsilons=None)[0]
    if toolbox == "torchattacks":
        return for_torchattacks(model, **options)
    from art.estimators.classification import PyTorchClassifier

    loss = nn.CrossEntropyLoss()
    classifier = PyTorchClassifier(model, loss, (2, 8, 8), 5, clip_values=(0, 1), device_type="cpu")
    attack = for_art(classifier, **options)
    return lambda x, y: torch.from_numpy(attack.generate(x.numpy()))


CALLED = [
    ("foolbox", {"steps": 1, "candidates": 3, "overshoot": 0.5}, {"steps": 1, "candidates": 3}),
    ("foolbox", {"steps": 2}, {"steps": 2, "overshoot": 0.02}),
    ("torchattacks", {"steps": 1, "overshoot": 0.5}, {"steps": 1}),
    ("art", {"max_iter": 1, "nb_grads": 3, "epsilon": 0.5}, {"steps": 1, "candidates": 3}),
    ("art", {"steps": 1, "candidates": 3, "overshoot": 0.5}, {"steps": 1, "candidates": 3}),
]


@pytest.mark.parametrize(("toolbox", "options", "own"), CALLED)
def test_names_of_the_toolbox(toolbox, options, own):
    model, x, y = images()
    got = make(toolbox, **options)(x, y)
    usual = {"torchattacks": {"candidates": None, "clip": (0, 1), "clip_steps": True}}
    choices = {**usual.get(toolbox, PRESETS.get(toolbox, {})), "overshoot": 0.5, **own}
    want = deepfool(model, x, y, **choices).adversarial
    torch.testing.assert_close(got, want)


def test_a_box_that_is_given_goes_before_that_of_the_foolbox_model():
    model, x, _ = images()
    x = 0.4 + x / 5
    y, box = model(x).argmax(dim=1), (0.4, 0.6)
    want = deepfool(model, x, y, **{**PRESETS["foolbox"], "clip": box}).adversarial
    assert bool((want == 0.6).any())
    torch.testing.assert_close(make("foolbox", clip=box)(x, y), want)


@pytest.mark.parametrize("toolbox", ["foolbox", "torchattacks", "art"])
@pytest.mark.parametrize("p", [1, 2, float("inf")])
def test_minimal_norm(toolbox, p):
    model, x, y = images()
    candidates = "nb_grads" if toolbox == "art" else "candidates"
    got = make(toolbox, attack="minimal_norm", p=p, budget=60, **{candidates: 3})(x, y)
    want = minimal_norm(model, x, y, p=p, budget=60, candidates=3)
    sizes = [(moved - x).flatten(1).norm(p, dim=1) for moved in (got, want)]
    torch.testing.assert_close(*sizes, rtol=0.05, atol=0)  # roundings lead to other corners
    assert bool((model(got).argmax(dim=1) != y).all())


def test_minimal_norm_in_art_takes_samples_at_a_time(monkeypatch):
    _, x, y = images()
    seen = []

    def result(model, x, **options):
        seen.append(len(x))
        return minimal_norm.result(model, x, **options)

    recorded = wraps(minimal_norm)(lambda *given, **options: None)
    recorded.result = result
    monkeypatch.setitem(ATTACKS, "minimal_norm", recorded)
    got = make("art", attack="minimal_norm", budget=20, batch_size=3)(x, y)
    assert seen == [3, 3, 2]
    assert got.shape == x.shape


@pytest.mark.parametrize(
    ("toolbox", "options", "error", "text"),
    [
        ("foolbox", {"steps": 0}, ValueError, "steps must be >= 1; got 0"),
        ("foolbox", {"steps": 2.5}, TypeError, "steps must be an integer; got 2.5"),
        ("foolbox", {"candidates": 1}, ValueError, "candidates must be >= 2; got 1"),
        ("foolbox", {"epsilon": 1}, TypeError, "for_foolbox takes no option epsilon; it takes"),
        ("foolbox", {"p": "inf"}, TypeError, "p must be a number; got str"),
        ("foolbox", {"target": 1}, TypeError, "for_foolbox takes no option target"),
        ("art", {"steps": 3, "max_iter": 3}, TypeError, "takes steps or max_iter"),
        ("foolbox", {"clip": (1, 0)}, ValueError, "clip must be (low, high) with low < high"),
        ("torchattacks", {"steps": -1}, ValueError, "steps must be >= 1; got -1"),
        ("torchattacks", {"overshoot": -1}, ValueError, "overshoot must be finite and >= 0"),
        ("torchattacks", {"eps": 0.1}, TypeError, "for_torchattacks takes no option eps"),
        ("foolbox", {"attack": "ddn"}, ValueError, "attack must be one of deepfool, minimal_norm"),
        ("foolbox", {"attack": "minimal_norm", "budget": 3}, ValueError, "budget must be >= 5"),
        ("foolbox", {"attack": "minimal_norm", "p": 3}, ValueError, "p must be one of 1, 2, inf"),
        ("torchattacks", {"attack": "minimal_norm", "clip": (1, 0)}, ValueError, "clip must be"),
        (
            "torchattacks",
            {"attack": "minimal_norm", "overshoot": 1},
            TypeError,
            "for_torchattacks takes no option overshoot; it takes args, budget, candidates, clip",
        ),
        (
            "art",
            {"attack": "minimal_norm", "nb_grads": 1},
            ValueError,
            "nb_grads must be >= 2; got 1",
        ),
        ("art", {"nb_grads": 0}, ValueError, "nb_grads must be >= 2; got 0"),
        ("art", {"epsilon": -1}, ValueError, "epsilon must be finite and >= 0; got -1"),
        ("art", {"batch_size": 0}, ValueError, "batch_size must be >= 1; got 0"),
        ("art", {"variant": "best"}, ValueError, "variant must be one of deepfool, super"),
    ],
)
def test_wrong_options_are_refused_when_the_attack_is_made(toolbox, options, error, text):
    with pytest.raises(error, match=re.escape(text)):
        make(toolbox, **options)


def test_attackbench_takes_the_names_of_adv_lib():
    model, x, y = images()
    got = for_attackbench(model, x, y, norm=float("inf"), steps=3)
    choices = {**PRESETS["advlib"], "p": float("inf"), "steps": 3}
    want = deepfool(model, x, y, **choices)
    assert torch.equal(got[want.success], want.adversarial[want.success])
    with pytest.raises(TypeError, match="for_attackbench takes no option return_targets"):
        for_attackbench(model, x, y, return_targets=True)


def test_attackbench_is_called_as_adv_lib_calls_an_attack():
    """(model, inputs, labels, targeted): the labels are the targets, where targeted."""
    model, x, y = images()
    target = model(x).topk(2).indices[:, 1]
    want = for_attackbench(model, x, y, targets=target, targeted=True)
    assert bool((model(want).argmax(dim=1) == target).any())
    attack = partial(for_attackbench, steps=100)
    assert torch.equal(attack(model, x, target, targeted=True), want)
    assert torch.equal(attack(model=model, inputs=x, labels=target, targeted=True), want)
    plain = for_attackbench(model, x, y)
    assert torch.equal(attack(model, x, y, targets=target), plain)


def test_options_by_place_are_refused():
    """Others have other ones there: adv-lib `targeted` in the fourth place, ART `max_iter`."""
    model, x, y = images()
    with pytest.raises(TypeError, match="3 positional arguments"):
        for_attackbench(model, x, y, True)
    with pytest.raises(TypeError, match="1 positional argument"):
        for_art(None, 50)
    with pytest.raises(TypeError, match="targeted must be True or False; got 'no'"):
        for_attackbench(model, x, y, targeted="no")


def test_minimal_norm_in_attackbench():
    model, x, y = images()
    options = {"attack": "minimal_norm", "budget": 12}
    got = for_attackbench(model, x, y, norm=float("inf"), **options)
    assert torch.equal(got, minimal_norm(model, x, y, p=float("inf"), budget=12))
    target = model(x).topk(2).indices[:, 1]
    want = minimal_norm.result(model, x, target=target, budget=12)
    assert bool(want.success.any())
    fooled = want.success.view(-1, 1, 1, 1)
    for call in ({"labels": target}, {"labels": y, "targets": target}):
        got = for_attackbench(model, x, targeted=True, **call, **options)
        assert torch.equal(got, torch.where(fooled, want.adversarial, x))
