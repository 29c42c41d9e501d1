"""What the tests of hardening share: a job on disk, a small network, and no pictures."""

from pathlib import Path

import pytest

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
    """Make the picture, but do not draw it, which takes longer than to harden, unless asked to."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("jacfast.training.harden.png", lambda figure: b"not drawn")
