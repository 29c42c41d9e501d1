"""Attacks that are to reach a class: against other toolboxes, and on linear models."""

import functools
import re

import pytest
import torch
from torch import nn

import jacfast
from tests.nets import build, draw

REASON = " is an optional rival (pip install jacfast[rivals]); parity needs it"
BIM = functools.partial(jacfast.bim, steps=7)
ATTACKS = {
    "fgsm": functools.partial(jacfast.fgsm, eps=0.1),
    "bim": functools.partial(BIM, eps=0.1),
    "bim-2-margin": functools.partial(BIM, eps=0.6, p=2, loss="margin"),
    "pgd": functools.partial(jacfast.pgd, eps=0.1, random_start=False),
    "ddn": jacfast.ddn,
    "fmn": jacfast.fmn,
    "minimal_norm": jacfast.minimal_norm,
    "carlini_wagner": functools.partial(
        jacfast.carlini_wagner, steps=40, lr=0.1, binary_steps=4, initial_const=1.0
    ),
}


def images(dtype=torch.float64):
    model, x = build("cnn", 24, dtype)
    x = x.sigmoid()
    return model.eval(), x, model(x).topk(2).indices[:, 1]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_target_comes_nearer(attack):
    model, x, target = images()
    got = attack(model, x, target=target)

    def share(at):
        return model(at).log_softmax(dim=1).gather(1, target[:, None])

    reached = model(got).argmax(dim=1) == target
    moved = (got != x).flatten(1).any(dim=1)
    assert int(reached.sum()) >= 4
    assert bool((share(got) > share(x))[moved].all())


def test_fgsm_by_hand():
    """x - eps sign(d CE(target)/dx)."""
    model, x, target = images()
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(leaf), target, reduction="sum").backward()
    want = (x - 0.1 * leaf.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(jacfast.fgsm(model, x, target=target, eps=0.1), want)


def test_two_classes_reach_the_other_as_they_leave_the_one():
    model, x = nn.Linear(6, 2).double(), 0.5 + 0.1 * draw(9, 6)
    model.weight.data, model.bias.data = draw(2, 6), -draw(2, 6).sum(1) / 2
    y = model(x).argmax(dim=1)
    for attack in ATTACKS.values():
        torch.testing.assert_close(attack(model, x, target=1 - y), attack(model, x, y))


def test_samples_of_the_target_class_are_left_alone_by_carlini_wagner():
    model, x, target = images()
    target[::2] = model(x).argmax(dim=1)[::2]
    got = jacfast.carlini_wagner(model, x, target=target, steps=40, lr=0.1, binary_steps=4)
    assert torch.equal(got[::2], x[::2])
    z = model(
        jacfast.carlini_wagner(
            model, x, target=target, confidence=0.05, steps=50, lr=0.1, initial_const=1.0
        )
    )
    best = z.topk(2).values
    reached = z.argmax(dim=1) == target
    assert int(reached.sum()) >= 8
    by = (best[:, 0] - best[:, 1])[reached & (z != model(x)).any(dim=1)]
    assert float(by.min()) >= 0.05


def test_restarts_go_on_until_the_target_is_reached():
    """Nothing but one corner of the ball is of the target class: few starts lead there."""

    def model(z):
        return torch.stack([z[:, 0] * 0 + 1, 2 * (z.amin(dim=1) > 0.02), z[:, 0] * 0], dim=1)

    x, target = torch.zeros(4, 2, dtype=torch.float64), torch.ones(4, dtype=torch.int64)
    choices = {"eps": 0.1, "steps": 1, "clip": None}
    once = jacfast.pgd(model, x, target=target, generator=seeded(), **choices)
    many = jacfast.pgd(model, x, target=target, generator=seeded(), restarts=60, **choices)
    hits = [int((model(at).argmax(dim=1) == 1).sum()) for at in (once, many)]
    assert hits[0] < hits[1] == 4


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_wrong_targets_are_refused(attack):
    model, x, target = images()
    for given, text in (
        ({"y": target, "target": target}, "give y, the classes to leave, or target"),
        ({"target": target[1:]}, "target must have shape [N] = [24]"),
        ({"target": target + 5}, "target must lie in 0 .. K - 1 = 4"),
    ):
        with pytest.raises(ValueError, match=re.escape(text)):
            attack(model, x, **given)


@pytest.mark.parametrize("name", ["FGSM", "BIM", "PGD"])
def test_torchattacks(name):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks" + REASON)
    model, x, target = images()
    more = {
        "FGSM": {},
        "BIM": {"alpha": 0.03, "steps": 7},
        "PGD": {"alpha": 0.03, "steps": 7, "random_start": False},
    }[name]
    theirs = getattr(torchattacks, name)(model, eps=0.1, **more)
    theirs.set_mode_targeted_by_label(quiet=True)
    want = theirs(x, target)
    if name == "FGSM":
        got = jacfast.fgsm(model, x, target=target, eps=0.1)
    else:
        got = jacfast.bim(model, x, target=target, eps=0.1, steps=7, step_size=0.03)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-7)
    assert bool((got != x).flatten(1).any(1).all())


@pytest.fixture
def peer():
    foolbox = pytest.importorskip("foolbox", reason="foolbox" + REASON)
    model, x, target = images(torch.float32)
    criterion = foolbox.criteria.TargetedMisclassification(target)
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return foolbox.attacks, peer, model, x, target, criterion


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_foolbox_pgd(norm, peer):
    attacks, peer, model, x, target, criterion = peer
    eps, p = (0.1, float("inf")) if norm == "Linf" else (0.6, 2)
    got = jacfast.bim(model, x, target=target, eps=eps, p=p, steps=7, step_size=0.3 * eps)
    theirs = getattr(attacks, f"{norm}PGD")(rel_stepsize=0.3, steps=7, random_start=False)
    _, want, _ = theirs(peer, x, criterion, epsilons=eps)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_foolbox_carlini_wagner(peer):
    attacks, peer, model, x, target, criterion = peer
    theirs = attacks.L2CarliniWagnerAttack(4, steps=150, initial_const=0.1)
    _, want, reached = theirs(peer, x, criterion, epsilons=None)
    few = {"binary_steps": 4, "steps": 150, "initial_const": 0.1}
    got = jacfast.carlini_wagner(model, x, target=target, **few)
    assert torch.equal(model(got).argmax(dim=1) == target, reached)
    assert int(reached.sum()) >= 20
    mine, other = ((a - x).flatten(1).norm(dim=1)[reached] for a in (got, want))
    assert float(mine.mean() / other.mean()) == pytest.approx(1, rel=0.03)
