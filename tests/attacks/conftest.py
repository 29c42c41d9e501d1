"""What the tests of attacks share."""

import pytest

from jacfast import deepfool
from jacfast.attacks import stream
from tests.attacks.loops import choose
from tests.nets import build


@pytest.fixture(params=["cpu", "gpu"], ids=["cpu's loop", "gpu's loop"])
def either_loop(request, monkeypatch) -> str:
    """Run a test of DeepFool over both its loops; says which."""
    choose(monkeypatch, masked=request.param == "gpu")
    return request.param


@pytest.fixture
def problem():
    """Return a network, images and labels, one of them wrong."""
    model, x = build("cnn", 10)
    y = model(x).argmax(dim=1)
    y[3] = (y[3] + 1) % 5
    return model.eval(), x, y


@pytest.fixture
def attacked(monkeypatch) -> list[int]:
    """Count the samples of every call of deepfool."""
    counts: list[int] = []

    def counting(model, x, y=None, **options):
        counts.append(len(x))
        return deepfool(model, x, y, **options)

    monkeypatch.setattr(stream, "deepfool", counting)
    return counts
