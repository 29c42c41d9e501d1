"""Digits, and two little networks that know them."""

import pytest
import torch

from jacfast import data, models
from jacfast.training import fit


@pytest.fixture(scope="session")
def digits():
    return data.load(None)


@pytest.fixture
def read_once(digits, monkeypatch):
    monkeypatch.setattr(data, "load", lambda folder: digits)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, digits):
    """Return a folder with two little networks that know most digits, and one for nines only."""
    here = tmp_path_factory.mktemp("plot")
    for name, epochs in (("plain", 2), ("other", 1), ("nines", 0)):
        torch.manual_seed(0)
        model = models.deep_defense_mlp()
        loss = lambda m, x, y: torch.nn.functional.cross_entropy(m(x), y)  # noqa: E731
        options = {"batch_size": 50, "lr": 1e-3, "loss": loss}
        fit(model, digits.train_x[:2000], digits.train_y[:2000], epochs=epochs, **options)
        if name == "nines":
            model[-1].bias.data[9] = 1e3
        torch.save(model.state_dict(), here / f"{name}.pt")
    return here
