"""What the tests of hardening share: a job on disk, and a small network."""

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
