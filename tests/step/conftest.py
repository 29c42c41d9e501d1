"""Settings of the tests of this folder."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(threads) -> None:
    """Run in one thread: on tensors as small as these more only wait for each other."""
    threads(1)
