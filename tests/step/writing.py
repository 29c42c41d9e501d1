"""Models that write to their parameters when they are called, as published ones do."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def assigned(k: nn.Parameter, q: nn.Parameter) -> None:  # MoCo's own way
    k.data = k.data * 0.9 + q.data * 0.1


def through_data(k: nn.Parameter, q: nn.Parameter) -> None:
    k.data.mul_(0.9).add_(q.data, alpha=0.1)


def in_place(k: nn.Parameter, q: nn.Parameter) -> None:
    with torch.no_grad():
        k.mul_(0.9).add_(q, alpha=0.1)


class Momentum(nn.Module):
    """MoCo and BYOL: a frozen encoder follows the trained one, in every call."""

    def __init__(self, write, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.q, self.k = (
            nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3)) for _ in range(2)
        )
        self.k.requires_grad_(False)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        for q, k in zip(self.q.parameters(), self.k.parameters(), strict=True):
            self.write(k, q)
        x = self.norm(x)
        return self.q(x) * self.k(x)


class Following(nn.Module):
    """BYOL with batch-norm in both encoders, whose weights and statistics follow, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head, self.k = nn.BatchNorm1d(6), nn.Linear(6, 3), nn.BatchNorm1d(6)
        nn.init.uniform_(self.norm.weight)
        self.k.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for q, k in zip(self.norm.parameters(), self.k.parameters(), strict=True):
            in_place(k, q)
        in_place(self.k.running_mean, self.norm.running_mean)
        return self.head(self.norm(x) * self.k(x)).tanh()


class Normed(nn.Module):
    """The spectral norm of many GANs: u and v are frozen parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(8, 3)
        self.w = nn.Parameter(torch.randn(8, 6))
        self.u = nn.Parameter(F.normalize(torch.randn(8), dim=0), requires_grad=False)
        self.v = nn.Parameter(F.normalize(torch.randn(6), dim=0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.v.data = F.normalize(self.w.data.T @ self.u.data, dim=0)
        self.u.data = F.normalize(self.w.data @ self.v.data, dim=0)
        sigma = self.u @ (self.w @ self.v)
        return self.head(F.linear(self.norm(x), self.w / sigma).tanh())


class ActNorm(nn.Module):
    """Glow's: trained parameters that the first batch sets."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.head = nn.BatchNorm1d(6), nn.Linear(6, 8), nn.Linear(8, 3)
        self.loc, self.scale = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.ones(8))
        self.register_buffer("set", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(self.norm(x))
        if self.set == 0:
            with torch.no_grad():
                self.loc.data.copy_(-h.mean(0))
                self.scale.data.copy_(1 / (h.std(0) + 1e-6))
                self.set.fill_(1)
        return self.head(torch.tanh(self.scale * (h + self.loc)))


WRITING = {
    "momentum, assigned": lambda: Momentum(assigned),
    "momentum, through data": lambda: Momentum(through_data),
    "momentum, in place": lambda: Momentum(in_place),
    "large momentum, assigned": lambda: Momentum(assigned, 800),
    "large momentum, in place": lambda: Momentum(in_place, 800),
    "momentum of batch-norm": Following,
    "spectral norm": Normed,
    "first values": ActNorm,
}
