"""Objects of a user's own that a model holds, and a model that reads them."""

import dataclasses
import warnings

import torch
from torch import Tensor, nn

from jacfast import Frobenius
from tests.step.steps import assert_same, fast
from tests.step.tracing import assert_traced


@dataclasses.dataclass(slots=True)
class Slotted:
    scale: float = 1.0
    inner: object = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    scale: float = 1.0


class Mixed(Slotted):
    """Slots of a parent, and a dictionary of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.more = 1.0


class Private:
    __slots__ = ("__scale", "empty")

    def __init__(self) -> None:
        self.__scale = 1.0

    def set(self, scale: float) -> None:
        self.__scale = scale

    def get(self) -> float:
        return self.__scale


class Net(nn.Module):
    """A linear layer, scaled by what some object says."""

    def __init__(self, read) -> None:
        super().__init__()
        self.last, self.read, self.held = nn.Linear(6, 5), read, None

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x).tanh() * float(self.read(self))


SIMPLE = lambda m: m.held.scale  # noqa: E731


def assert_followed(model: nn.Module, change) -> None:
    """Check recorded steps against eager ones, before a change and after it."""
    x = torch.randn(4, 6).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            for _ in range(2):
                got = fast(model, x, None, Frobenius("exact"), compiled="traced")
                assert_same(got, fast(model, x, None, Frobenius("exact")))
            change(model)
            change = lambda m: None  # noqa: E731
    assert_traced(model, 2)
