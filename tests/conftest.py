"""Fixtures of every test."""

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from jacfast.ops import lives
from tests.testing import EMULATED, LIVES, Life, emulated, missing


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a second environment run every test, without all of its parameters once more."""
    parser.addoption(
        "--one-in",
        type=int,
        default=1,
        help="of each test's parameters, one in so many; a prime, so that all values are met",
    )


@pytest.hookimpl(trylast=True)  # of what -k leaves
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what --one-in does not ask for."""
    seen: Counter[str] = Counter()
    kept, left_out = [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        (left_out if seen[test] % config.getoption("--one-in") else kept).append(item)
        seen[test] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


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
