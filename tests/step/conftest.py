"""Settings of the tests of this folder."""

from collections.abc import Iterator

import pytest
import torch

from jacfast.calling import parts
from jacfast.lean import mode
from jacfast.step import plain, run
from tests.step.capturing import Cuda
from tests.step.switching import Net


@pytest.fixture(autouse=True)
def _one_thread(threads) -> None:
    """Run in one thread: on tensors as small as these more only wait for each other."""
    threads(1)


@pytest.fixture(autouse=True)
def _every_layer_lean(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks as small as these run with lean layers, as large ones do.

    A test that has the fixture `size` chooses: "small" leaves the layers to PyTorch.
    """
    if "size" not in request.fixturenames or request.getfixturevalue("size") == "large":
        monkeypatch.setattr(mode, "LEAST", 0)
        monkeypatch.setattr(parts, "ENTRIES", 0)
        monkeypatch.setattr(plain, "DENSE", set())


@pytest.fixture(params=["large", "small"])
def size(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def never_eager(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """Fail where a call runs eager, which it says in a warning."""
    yield
    said = [str(w.message) for w in recwarn if "runs eager" in str(w.message)]
    assert not said


@pytest.fixture
def switching():
    """Return a network that can change, a batch for it, and labels."""
    torch.manual_seed(0)
    model = Net().double().eval()
    return model, torch.randn(5, 2, 4, 4).double(), torch.arange(5) % 3


@pytest.fixture
def watched(monkeypatch):
    """Return the list of calls that are watched, layer by layer."""
    calls, forward = [], run.Run._forward
    monkeypatch.setattr(
        run.Run,
        "_forward",
        lambda self, *rest, **more: calls.append(1) or forward(self, *rest, **more),
    )
    return calls


@pytest.fixture
def cuda(monkeypatch) -> Cuda:
    """Let a stand-in make CUDA graphs."""
    return Cuda(device="the current one").put_into(monkeypatch)
