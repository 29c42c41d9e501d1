"""What tests of training share: a job on disk, a small network, no pictures; counted products."""

from pathlib import Path

import pytest
from torch import Tensor

import jacfast.vjp
from jacfast import models
from tests.training.runs import make_job


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture
def small(monkeypatch):
    """A small network in the place of the TF-tutorial CNN."""
    monkeypatch.setattr(models, "tf_tutorial_cnn", lambda: models.mlp(784, 24, 10))


@pytest.fixture
def drawn():
    """Ask for the picture of a hardening."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Leave out the picture, which takes longer than to harden, unless asked for it.

    And have the attacks of the worst case end soon.
    """
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("jacfast.training.harden.hardening_figure", lambda *found: None)
        monkeypatch.setattr("jacfast.training.harden.png", lambda figure: b"not drawn")
        soon = {"budget": 5, "steps": 1, "restarts": 1}
        monkeypatch.setattr("jacfast.training.measure.SMALL", soon)


@pytest.fixture
def products(monkeypatch) -> list[tuple[bool, int]]:
    """Note of every vector-Jacobian product whether it has a graph, and of how many samples."""
    calls, grad = [], jacfast.vjp.grad

    def counting(outputs, x, cotangent, create_graph, batched=False, **options) -> Tensor:
        calls.extend([(create_graph, len(x))] * (len(cotangent) if batched else 1))
        return grad(outputs, x, cotangent, create_graph, batched, **options)

    monkeypatch.setattr(jacfast.vjp, "grad", counting)
    return calls
