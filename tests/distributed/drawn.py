"""What each of two processes draws in `fit` by itself: run by torchrun."""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jacfast.training import fit

OUT = Path(sys.argv[-1])


class Drawing(nn.Module):
    """Draws with the shape of no sample, and keeps what it has drawn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(6, 3, dtype=torch.float64)
        self.drawn: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.drawn.append(torch.rand(6, dtype=x.dtype))
        return self.last(x * self.drawn[-1])


class Again(nn.Module):
    """Dropout in a checkpoint, which runs it again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()
        self.reentrant = reentrant
        self.drawn: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self._inner, self.first(x), use_reentrant=self.reentrant))

    def _inner(self, x: Tensor) -> Tensor:
        self.drawn.append(F.dropout(torch.ones_like(x).detach(), 0.5, self.training))
        return (x * self.drawn[-1]).tanh()


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def train(model: nn.Module, epochs: int, **options) -> tuple[list[Tensor], Tensor]:
    """Return what was drawn, and the weights."""
    torch.manual_seed(1)
    x, y = torch.rand(12, 6, dtype=torch.float64), torch.arange(12) % 3
    fit(model, x, y, epochs=epochs, batch_size=4, lr=0.1, loss=loss, **options)
    return model.drawn, model.last.weight.detach()


if __name__ == "__main__":
    whole = train(Drawing(), 4)
    train(Drawing(), 2, save=OUT / "half")
    again = [train(Again(reentrant), 1)[0] for reentrant in (False, True)]
    resumed = train(Drawing(), 4, save=OUT / "half", resume=True)
    torch.save((whole, resumed, again), OUT / f"{os.environ['RANK']}.pt")
