"""Wherever new tensors are made by default, everything stays where the model and x are."""

import functools

import pytest
import torch
import torch.nn.functional as F

import jacfast
from jacfast import data, evaluation
from jacfast.training import Defence, attack_once, fit
from tests.nets import build

BOX, EPS = (torch.zeros(()), torch.ones(())), torch.tensor(0.1)


def trained(model, x, y):
    pgd = functools.partial(jacfast.pgd, eps=0.1, generator=torch.default_generator)
    loss = Defence(jacfast.Frobenius(2), 0.1, attack=pgd, share=0.5, twins=True, penalise="both")
    fit(model, x, y, epochs=2, batch_size=4, lr=0.01, loss=loss)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def penalised(model, x, y, **options):
    torch.manual_seed(2)
    logits, penalty = jacfast.forward_with_penalty(model, x, y, **options)
    F.cross_entropy(logits, y).add(penalty).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def one_line(model, x, y):
    torch.manual_seed(2)
    x = x.clone().requires_grad_()
    return jacfast.frobenius_penalty(model(x), x)


def distances(model, x, y):
    found = jacfast.robustness_report(model, x, y).distances.values()
    return torch.tensor([far.tolist() for far in found], device="cpu")


def penalties(model, x, y):
    kinds = jacfast.Frobenius("exact"), jacfast.CrossLipschitz(), jacfast.InputGradient()
    return torch.stack([penalised(model, x, y, penalty=penalty) for penalty in kinds])


CALLS = {
    "fit": trained,
    "attack_once": lambda m, x, y: attack_once(m, x, y, jacfast.deepfool, share=0.5),
    "forward_with_penalty": penalised,
    "subsample": lambda m, x, y: penalised(m, x, y, penalty=jacfast.Frobenius(2, subsample=0.5)),
    "chunks": lambda m, x, y: penalised(m, x, y, chunk_size=3),
    "traced": lambda m, x, y: penalised(m, x, y, compiled="traced"),
    "every penalty": penalties,
    "one line": one_line,
    "deep defense": lambda m, x, y: jacfast.deep_defense_penalty(m, x, y),
    "jacobian": lambda m, x, y: jacfast.jacobian(m, x),
    "deepfool": lambda m, x, y: jacfast.deepfool(m, x, clip=(0, 1)).adversarial,
    "deepfool in a box of tensors": lambda m, x, y: jacfast.deepfool(m, x, clip=BOX).adversarial,
    "fgsm": lambda m, x, y: jacfast.fgsm(m, x, y, eps=0.1),
    "fgsm of a tensor": lambda m, x, y: jacfast.fgsm(m, x, y, eps=EPS, clip=BOX),
    "bim": lambda m, x, y: jacfast.bim(m, x, y, eps=0.1),
    "pgd": lambda m, x, y: jacfast.pgd(
        m, x, y, eps=0.5, p=2, restarts=2, generator=torch.Generator().manual_seed(0)
    ),
    "carlini_wagner": lambda m, x, y: jacfast.carlini_wagner(m, x, y, steps=5),
    "jsma": lambda m, x, y: jacfast.jsma(m, x, target=(y + 1) % 5, steps=3),
    "ddn": lambda m, x, y: jacfast.ddn(m, x, y, steps=5),
    "fmn": lambda m, x, y: jacfast.fmn(m, x, y, steps=5),
    "minimal_norm": lambda m, x, y: jacfast.minimal_norm(m, x, y, budget=20),
    "minimal_norm, p = 1": lambda m, x, y: jacfast.minimal_norm(m, x, y, p=1, budget=20),
    "rho_adv": lambda m, x, y: jacfast.rho_adv(m, x),
    "report": distances,
    "digits": lambda m, x, y: data.load(None).test_x,
    "parameter surface": lambda m, x, y: (
        evaluation.parameter_surface(m, x, y, evaluation.parameter_directions(m), points=3).values
    ),
    "input surface": lambda m, x, y: (
        evaluation.input_surface(
            m, x[:1], y[:1], evaluation.input_direction(m, x[:2], y[:2]), 1.0, points=3
        ).values
    ),
    "line": lambda m, x, y: evaluation.decision_line(m, x[:1], y[:1], x[1:2] - x[:1], [0, 1]).value,
    "curvature": lambda m, x, y: evaluation.curvature(m, x, y, x),
    "accuracy": lambda m, x, y: torch.tensor(evaluation.accuracy(m, x, y), device="cpu"),
}


def given():
    model, x = build("mlp", 8)
    return model, torch.sigmoid(x).detach(), torch.arange(8) % 5


with_adam = pytest.param(
    "fit",
    marks=pytest.mark.skipif(
        torch.__version__ < (2, 13), reason="Adam itself makes its state on the default device"
    ),
)


@pytest.mark.parametrize("name", [with_adam, *(name for name in CALLS if name != "fit")])
def test_nothing_follows_the_default_device(name):
    torch.manual_seed(1)
    want = CALLS[name](*given())
    mine = given()
    torch.manual_seed(1)
    with torch.device("meta"):
        found = CALLS[name](*mine)
    torch.testing.assert_close(found, want)
