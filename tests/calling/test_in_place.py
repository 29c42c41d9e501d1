"""A model whose first operation is in place: what it gives, and that x is left as it was."""

import pytest
import torch
from torch import nn

import jacfast
from jacfast import evaluation
from tests.nets import build


class Scaled(nn.Module):
    """The network on (x - 0.4) / 0.5, computed on x itself or on a copy."""

    def __init__(self, model: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.model, self.in_place = model, in_place

    def forward(self, x):
        return self.model(x.sub_(0.4).div_(0.5) if self.in_place else (x - 0.4) / 0.5)


class Rectified(nn.Module):
    def __init__(self, model: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.ReLU(inplace=in_place), model)

    def forward(self, x):
        return self.model(x)


def known(model: nn.Module, in_place: bool) -> nn.Module:
    """Return layers of torch.nn alone, whose batch may be cut, and whose sizes are looked at."""
    return nn.Sequential(nn.LeakyReLU(0.5, inplace=in_place), *model)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def labels(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(x)) % 5


USES = {
    "fgsm": lambda m, x: jacfast.fgsm(m, x, eps=0.1),
    "bim": lambda m, x: jacfast.bim(m, x, eps=0.1),
    "pgd": lambda m, x: jacfast.pgd(m, x, eps=0.1, restarts=2, generator=seeded()),
    "carlini_wagner": lambda m, x: jacfast.carlini_wagner(m, x, steps=5, binary_steps=2, lr=0.2),
    "ddn": lambda m, x: jacfast.ddn(m, x, steps=6),
    "fmn": lambda m, x: jacfast.fmn(m, x, steps=6),
    "minimal_norm": lambda m, x: jacfast.minimal_norm(m, x, budget=20),
    "jsma": lambda m, x: jacfast.jsma(m, x, steps=3, eps=0.3),
    "deepfool": lambda m, x: jacfast.deepfool(m, x).r,
    "deepfool-plain": lambda m, x: jacfast.deepfool(m, x, linearize="plain").r,
    "superdeepfool": lambda m, x: jacfast.deepfool(m, x, variant="super", clip=(0, 1), steps=5).r,
    "survives": lambda m, x: jacfast.deepfool(m, x, clip=(0, 1)).survives_rounding(m),
    "rho_adv": lambda m, x: torch.tensor(jacfast.rho_adv(m, x)),
    "jacobian": lambda m, x: jacfast.jacobian(m, x),
    "distance_bounds": lambda m, x: jacfast.distance_bounds(m, x).nearest,
    "predict": lambda m, x: evaluation.predict(m, x),
    "decision_gradient": lambda m, x: evaluation.decision_gradient(m, x, labels(x)),
    "curvature": lambda m, x: evaluation.curvature(m, x, labels(x), torch.ones_like(x)),
    "curvature-step": lambda m, x: evaluation.curvature(
        m, x, labels(x), torch.ones_like(x), step=1e-4
    ),
    "input_direction": lambda m, x: evaluation.input_direction(m, x, labels(x), "loss"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("first", [Scaled, Rectified, known])
@pytest.mark.parametrize("wrapped", [False, True], ids=["module", "function"])
def test_in_place_as_on_a_copy(use, first, wrapped):
    model, x = build("cnn", samples=6)
    x = x.sigmoid()
    models = [first(model, in_place) for in_place in (False, True)]
    want, got = (use((lambda z, m=m: m(z)) if wrapped else m, kept(x)) for m in models)
    torch.testing.assert_close(got, want)


def kept(x: torch.Tensor) -> torch.Tensor:
    """Return x as nobody may change it: a change in place is an error, or seen by its version."""
    return x.clone().requires_grad_()


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_x_is_left_as_it_was(use):
    model, x = build("cnn", samples=6)
    x = x.sigmoid()
    before, version = x.clone(), x._version
    use(Scaled(model, True), x)
    assert torch.equal(x, before)
    assert x._version == version


@pytest.mark.parametrize("options", [{}, {"subsample": 0.5}], ids=str)
@pytest.mark.parametrize("wants", [False, True])
@pytest.mark.parametrize("layer", [Scaled, Rectified, known])
@pytest.mark.parametrize("samples", [4, 40])
def test_a_penalised_step(samples, layer, wants, options):
    (model, x), y = build("cnn", samples=samples), torch.arange(samples) % 4
    penalty, found = jacfast.Frobenius("exact", **options), []
    for in_place in (True, False):
        own = x.clone().requires_grad_(wants)
        wrapped = layer(model, in_place)
        logits, value = jacfast.forward_with_penalty(
            wrapped, own, penalty=penalty, generator=seeded()
        )
        loss = torch.nn.functional.cross_entropy(logits, y) + value
        found.append(torch.autograd.grad(loss, [*model.parameters(), *[own] * wants]))
        assert torch.equal(own, x)
    torch.testing.assert_close(*found)
