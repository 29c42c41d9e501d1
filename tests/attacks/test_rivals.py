"""The other attacks against foolbox and torchattacks, where definitions coincide.

The differences are listed in docs/architecture.md, 'Attacks: where others differ'.
"""

import pytest
import torch

from jacfast import bim, carlini_wagner, fgsm, jsma, pgd
from tests.nets import build

REASON = " is an optional rival (pip install jacfast[rivals]); parity needs it"


@pytest.fixture(params=["cnn", "conv_batch_norm"])
def problem(request):
    model, x = build(request.param, 24)
    return model.eval(), x.sigmoid(), torch.arange(24) % 5


@pytest.fixture
def torchattacks():
    return pytest.importorskip("torchattacks", reason="torchattacks" + REASON)


@pytest.fixture
def foolbox():
    return pytest.importorskip("foolbox", reason="foolbox" + REASON)


def same(got: torch.Tensor, want: torch.Tensor, x: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=1e-7)
    assert bool((got != x).flatten(1).any(1).all())


def test_torchattacks_fgsm(problem, torchattacks):
    model, x, y = problem
    same(fgsm(model, x, y, eps=0.1), torchattacks.FGSM(model, eps=0.1)(x, y), x)


def test_torchattacks_bim_and_pgd(problem, torchattacks):
    model, x, y = problem
    got = bim(model, x, y, eps=0.1, steps=7, step_size=0.03)
    same(got, torchattacks.BIM(model, eps=0.1, alpha=0.03, steps=7)(x, y), x)
    theirs = torchattacks.PGD(model, eps=0.1, alpha=0.03, steps=7, random_start=False)
    same(got, theirs(x, y), x)


def test_torchattacks_pgd_in_the_2_norm(problem, torchattacks):
    model, x, y = problem
    got = pgd(model, x, y, eps=0.6, p=2, steps=7, step_size=0.2, random_start=False)
    theirs = torchattacks.PGDL2(model, eps=0.6, alpha=0.2, steps=7, random_start=False)
    same(got, theirs(x, y), x)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_foolbox_pgd_and_bim(problem, norm, foolbox):
    model, x, y = problem
    x = x.float()
    model = model.float()  # foolbox's arithmetic is
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    eps, p = (0.1, float("inf")) if norm == "Linf" else (0.6, 2)
    got = bim(model, x, y, eps=eps, p=p, steps=7, step_size=0.3 * eps)
    for name in (f"{norm}PGD", f"{norm}BasicIterativeAttack"):
        attack = getattr(foolbox.attacks, name)
        theirs = attack(rel_stepsize=0.3, steps=7, random_start=False)
        _, want, _ = theirs(peer, x, y, epsilons=eps)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_foolbox_carlini_wagner(problem, foolbox):
    model, x, _ = problem
    model, x = model.float(), x.float()
    y = model(x).argmax(1)
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.L2CarliniWagnerAttack(4, steps=150, initial_const=0.1)
    _, want, fooled = theirs(peer, x, y, epsilons=None)
    got = carlini_wagner(model, x, binary_steps=4, steps=150, initial_const=0.1)
    assert torch.equal(model(got).argmax(1) != y, fooled)
    assert int(fooled.sum()) >= 20
    mine, other = ((a - x).flatten(1).norm(dim=1)[fooled] for a in (got, want))
    assert float(mine.mean() / other.mean()) == pytest.approx(1, rel=0.03)


def test_torchattacks_jsma(torchattacks):
    """Pairs, logits, targeted; eps 0.1 fills no pixel. Samples in which a pair always qualifies."""
    model, x = build("cnn", 16, torch.float32)
    x, target = x.sigmoid() * 0.8, torch.arange(16) % 5
    theirs = torchattacks.JSMA(model, theta=0.1, gamma=16 / 128)  # 8 steps
    theirs.set_mode_targeted_by_label(quiet=True)
    want = theirs(x, target)
    got = jsma(model, x, target=target, eps=0.1, steps=8, pixels=2)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    assert int((got != x).flatten(1).any(1).sum()) >= 10
