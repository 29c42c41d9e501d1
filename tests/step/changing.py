"""Models that change with every call, draw random numbers or couple the samples."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.utils.checkpoint import checkpoint

SHAPE = (3, 8, 8)


def network(conv: nn.Module, *more: nn.Module) -> nn.Module:
    return nn.Sequential(conv, *more, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


class Counting(nn.Module):
    """A counter in every form, a moving average, and the last features."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.calls, self.sizes, self.log = network(nn.Conv2d(3, 4, 3)), 0, [], {}
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(3))
        self.average = torch.zeros(3)  # no buffer
        self.features: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.sizes.append(len(x))
        self.log["calls"] = self.calls
        self.steps += 1
        z = self.body(x - self.mean[:, None, None])
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        self.average.mul_(0.9).add_(z.detach().mean(0))
        self.features = z
        return z


class Depth(nn.Module):
    """One draw for the whole batch says whether a layer takes part; checkpointed dropout after."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.layer = network(nn.Conv2d(3, 4, 3)), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        z = z + torch.rand(()) * self.layer(z)
        return checkpoint(lambda z: F.dropout(z, 0.4, self.training), z, use_reentrant=False)


class Contrastive(nn.Module):
    """Logits that are relative to the batch, by a constant, so that the samples' J is their own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network(nn.Conv2d(3, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        return z - z.detach().logsumexp(0)


CHANGING = {
    "spectral norm": lambda: network(spectral_norm(nn.Conv2d(3, 4, 3))),
    "parametrized": lambda: network(parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))),
    "instance norm": lambda: network(
        nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)
    ),
    "counting": Counting,
    "dropout": lambda: network(nn.Conv2d(3, 4, 3), nn.Dropout(0.3), nn.Dropout2d(0.3)),
    "depth": Depth,
    "contrastive": Contrastive,
}
