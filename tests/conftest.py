"""Fixtures of every test."""

import pytest
import torch

from jacfast.ops import lives
from tests.testing import LIVES, Life, missing


@pytest.fixture(params=LIVES)
def life(request, monkeypatch) -> Life:
    """Every life of an op in turn: the PyTorch reference, the compiled CPU code, the GPU."""
    why = missing(request.param)
    if why:
        pytest.skip(why)
    reference = request.param == "reference"
    monkeypatch.setattr(lives, "IMPL", "reference" if reference else "auto")
    return Life(request.param, torch.device("cpu" if reference else request.param))


@pytest.fixture
def threads():
    """Set the number of threads in a test; put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
