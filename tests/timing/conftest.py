"""Settings of the tests of this folder."""

import pytest

from tests.timing.benching import shorten


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    shorten(monkeypatch)
