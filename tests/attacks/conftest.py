"""What the tests of attacks share."""

import pytest

from tests.attacks.loops import choose


@pytest.fixture(params=["cpu", "gpu"], ids=["cpu's loop", "gpu's loop"])
def either_loop(request, monkeypatch) -> str:
    """Run a test of DeepFool over both its loops; says which."""
    choose(monkeypatch, masked=request.param == "gpu")
    return request.param
