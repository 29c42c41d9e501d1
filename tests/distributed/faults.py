"""What goes wrong in one of two processes, and what each of them hears of it."""

import contextlib
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import jacfast
from jacfast.training import Defence, fit

PLAIN = Defence()
KEPT: list[Exception] = []  # with their frames, as a debugger does, or who reports errors
RANK, OUT = int(os.environ.get("RANK", "0")), Path(sys.argv[-1])


def model(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), *layers, nn.Tanh(), nn.Linear(16, 5)).double()


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(12, 20, dtype=torch.float64), torch.arange(12) % 5


def train(net: nn.Module, loss: Callable = PLAIN, epochs: int = 3, **options) -> None:
    fit(net, *data(), epochs=epochs, batch_size=4, lr=0.1, loss=loss, **options)


class Broken:
    """A loss that raises in its 5th call in one process."""

    def __init__(self, rank: int) -> None:
        self.rank, self.calls = rank, 0

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 5 and self.rank == RANK:
            raise ZeroDivisionError("this loss is broken")
        return PLAIN(net, x, y)


def not_finite(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return a loss that is NaN in one process."""
    return PLAIN(net, x, y) * (torch.nan if RANK else 1.0)


@contextlib.contextmanager
def full(rank: int) -> Iterator[None]:
    """Let no file of one process be longer than some bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300 if rank == RANK else before[0], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_disk(epochs: int) -> None:
    with full(0):
        train(model(), epochs=epochs, save=OUT / "checkpoint.pt")


def full_disk_of_an_attack() -> None:
    x, _ = data()
    with full(1):
        jacfast.deepfool_to_disk(OUT / "attacked", model(), list(x.split(1)))


FAULTS = {
    "the first raises": lambda: train(model(), Broken(0)),
    "the second raises": lambda: train(model(), Broken(1)),
    "both see it": lambda: train(model(), not_finite),
    "full disk": lambda: full_disk(epochs=3),
    "full disk at the end": lambda: full_disk(epochs=1),
    "full disk of an attack": full_disk_of_an_attack,
}


def heard(call: Callable[[], None]) -> str:
    try:
        call()
    except Exception as error:
        KEPT.append(error)
        return f"{type(error).__name__}: {error}"
    return "nothing"


def results() -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return what this process has heard, and the weights of a training as if nothing had been."""
    words = {name: heard(call) for name, call in FAULTS.items()}
    again = model(nn.BatchNorm1d(16, dtype=torch.float64))
    train(again, save=OUT / "checkpoint.pt")
    return words, again.state_dict()
