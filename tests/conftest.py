"""Fixtures of every test."""

from collections.abc import Iterator

import pytest
import torch

from jacfast.ops import lives
from tests.testing import EMULATED, LIVES, Life, emulated, missing


@pytest.fixture(params=LIVES)
def life(request, monkeypatch) -> Iterator[Life]:
    """Every life of an op in turn: the PyTorch reference, the compiled CPU code, the CUDA kernels.

    The CUDA kernels run in the emulator, in several block sizes and orders, and on the GPU.
    """
    name = request.param
    why = missing(name)
    if why:
        pytest.skip(why)
    monkeypatch.setattr(lives, "IMPL", "reference" if name == "reference" else "auto")
    if name in EMULATED:
        with emulated(*EMULATED[name]):
            yield Life(name, torch.device("cpu"))
    else:
        yield Life(name, torch.device("cuda" if name == "cuda" else "cpu"))


@pytest.fixture
def threads():
    """Set the number of threads in a test; put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
