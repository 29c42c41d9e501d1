"""deepfool called as other toolboxes call an attack, against those toolboxes where installed."""

import math

import pytest
import torch

from jacfast import deepfool
from jacfast.attacks.adapters import for_art, for_attackbench, for_foolbox, for_torchattacks
from tests.nets import build


@pytest.fixture
def problem():
    model, x = build("cnn", 12, torch.float32)
    x = x.sigmoid()
    return model.eval(), x, model(x).argmax(dim=1)


@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("epsilons", [None, 0.5, [0.05, 0.5, None]])
def test_foolbox(problem, p, epsilons):
    foolbox = pytest.importorskip("foolbox", reason="foolbox is an optional rival")
    model, x, y = problem
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.L2DeepFoolAttack if p == 2 else foolbox.attacks.LinfDeepFoolAttack
    want = theirs(candidates=10)(peer, x, y, epsilons=epsilons)
    got = for_foolbox(p=p)(peer, x, foolbox.criteria.Misclassification(y), epsilons=epsilons)
    assert torch.equal(got[2], want[2])
    assert want[2].any()
    for a, b in zip(got[:2], want[:2], strict=True):
        pairs = zip(a, b, strict=True) if isinstance(b, list) else [(a, b)]
        for ours, expected in pairs:
            torch.testing.assert_close(ours, expected, rtol=0, atol=2e-3)
    with pytest.raises(ValueError, match="criterion must be Misclassification"):
        for_foolbox()(peer, x, foolbox.criteria.TargetedMisclassification(y), epsilons=None)


def test_torchattacks(problem):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is an optional rival")
    model, x, y = problem
    want = torchattacks.DeepFool(model, steps=50)(x, y)
    got = for_torchattacks(model)(x, y)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-3)
    assert not torch.equal(model(got).argmax(dim=1), y)


def test_art(problem):
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is an optional rival")
    from art.attacks.evasion import DeepFool
    from art.estimators.classification import PyTorchClassifier

    model, x, _ = problem
    classifier = PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), (2, 8, 8), 5, clip_values=(0.0, 1.0), device_type="cpu"
    )
    classifier.model.train()
    for_art(classifier).generate(x.numpy())
    assert all(module.training for module in classifier.model.modules())
    want = DeepFool(classifier, verbose=False, batch_size=12, nb_grads=5).generate(x.numpy())
    got = for_art(classifier).generate(x.numpy())
    assert got.dtype == want.dtype
    norms = [torch.from_numpy(a - x.numpy()).flatten(1).norm(dim=1) for a in (got, want)]
    torch.testing.assert_close(*norms, rtol=5e-3, atol=1e-4)


def test_attackbench(problem):
    model, x, y = problem
    got = for_attackbench(model, x, y)
    assert bool((model(got).argmax(dim=1) != y).all())
    assert float(got.min()) >= 0
    assert float(got.max()) <= 1
    target = (y + 2) % 5
    reached = for_attackbench(model, x, y, targets=target, targeted=True)
    fooled = model(reached).argmax(dim=1) == target
    assert torch.equal(reached[~fooled], x[~fooled])
    few = for_attackbench(model, x, y, steps=1)
    missed = ~deepfool(
        model, x, y, candidates=None, floor=1e-4, clip=(0, 1), clip_steps=True, steps=1
    ).success
    assert missed.any()
    assert torch.equal(few[missed], x[missed])
