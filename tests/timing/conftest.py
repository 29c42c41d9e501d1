"""Few and short turns, and no compiler: what is timed does not matter here."""

import pytest

from jacfast.timing import measure


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    def lacks(*_, **__):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(measure, "TURN", 0.0)
    monkeypatch.setattr(measure, "ROUNDS", (2, 2))
    monkeypatch.setattr("torch._inductor.compile", lacks)
