"""Networks by what stands between x and their first linear layer, or beside it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.step.networks import CLASSES


class Tokens(nn.Module):
    """Linear layers of [N, T, I], changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(2, 4))
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.transpose(1, 2))
        h += self.positions
        h = self.second(h.sigmoid_()).mul_(2)
        return self.head(F.relu(h, inplace=True).flatten(1))


class Before(nn.Module):
    """What stands between x and the first linear layer."""

    def __init__(self, before, inputs: int = 6) -> None:
        super().__init__()
        self.before, self.first = before, nn.Linear(inputs, 5)
        self.head = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(self.before(x)).relu().flatten(1))


class Residual(nn.Module):
    """An output that depends on x beside the first layer, too, and a weight without a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.row = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x)) + x
        return self.head(h) * F.linear(h, self.row)[:, None]


class Shift(nn.Module):
    """A Jacobian that no parameter changes."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :CLASSES] + self.bias


def before(change, shape: tuple[int, ...] = (6,), inputs: int = 6) -> nn.Module:
    model = Before(change, inputs)
    model(torch.zeros(1, *shape))  # gives the lazy layer its shape
    return model


ENTRIES = {
    "tokens": (Tokens, (3, 2)),
    "normalised": (lambda: before(lambda x: (x - 0.3) / 0.5), (6,)),
    "squared": (lambda: before(torch.square), (6,)),
    "tanh": (lambda: before(torch.tanh), (6,)),
    "expanded": (lambda: before(lambda x: x[:, None].expand(-1, 2, -1)), (6,)),
    "reshaped": (lambda: before(lambda x: x.transpose(1, 2), (6, 2)), (6, 2)),
    "overlapping": (lambda: before(lambda x: x.unfold(1, 5, 1), inputs=5), (6,)),
    "residual": (Residual, (6,)),
    "shift": (Shift, (6,)),
}
