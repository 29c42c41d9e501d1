"""Networks with what is unusual: shared, frozen, computed or unused weights; every convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.step.networks import CLASSES


class Shared(nn.Module):
    """One linear layer three times, its weight transposed the last time; one convolution twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.other.weight = self.conv.weight
        self.linear, self.head = nn.Linear(18, 18), nn.Linear(18, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.other(F.relu(self.conv(x))).flatten(1)
        h = self.linear(torch.tanh(self.linear(h)))
        return self.head(F.linear(h, self.linear.weight.t()))


class Functional(nn.Module):
    """Every way to write a ReLU and a max-pooling, in place with and without its result."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, 3, 3, padding=1) for c in (1, 3, 3, 3, 3, 3))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e, f = self.convs
        h = F.max_pool2d(F.relu(a(x)), 3, stride=2, padding=1)
        h = F.max_pool2d(torch.relu(b(h)), 2, 1, dilation=2, ceil_mode=True)
        h = F.max_pool2d(c(h).relu(), (2, 1), ceil_mode=True)
        h = d(h)
        h.relu_()
        h = torch.max_pool2d(h, 2, 1)
        h, _ = F.max_pool2d(F.relu(e(h), inplace=True), 2, stride=1, padding=1, return_indices=True)
        return self.head(torch.relu_(f(h)).mean(3).flatten(1))


class Convolutions(nn.Module):
    """Of one, two and three dimensions: dilated, grouped, strided, padded in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(4, 6, 3, padding=2, dilation=2, groups=2)
        self.same = nn.Conv2d(2, 4, 3, padding="same", dilation=2)
        self.circular = nn.Conv2d(4, 4, 3, stride=(2, 1), padding=1, padding_mode="circular")
        self.volume = nn.Conv3d(2, 4, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1))
        self.back = nn.ConvTranspose2d(4, 2, 2)
        self.head = nn.Linear(2 * 3 * 11, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [N, 4, 9]
        h = self.line(x).relu().unflatten(1, (2, 3))  # [N, 2, 3, 9]
        h = self.circular(self.same(h).relu_())  # [N, 4, 2, 9]
        h = self.volume(h.unflatten(1, (2, 2)).tanh()).mean(2)  # [N, 4, 1, 10]
        return self.head(self.back(h.expand(-1, -1, 2, -1)).flatten(1))


class Unused(nn.Module):
    """A layer that no output depends on, and one behind a detached value."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.never = nn.Linear(6, CLASSES), nn.Linear(6, 3)
        self.cut = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.tanh()) * self.cut(x).detach().exp()


class Embedded(nn.Module):
    """A linear layer of a parameter alone, and one of both that parameter and x."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 3, 6))
        self.embed, self.mix = nn.Linear(6, 6), nn.Linear(6, 4, bias=False)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(self.queries) * x[:, None]
        return self.head(F.relu(self.mix(tokens)).flatten(1))


def frozen() -> nn.Module:
    layers = [nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, CLASSES)]
    layers[0].requires_grad_(False)
    layers[2].bias.requires_grad_(False)
    layers[4].weight.requires_grad_(False)
    return nn.Sequential(*layers)


def normed(kind) -> nn.Module:
    """Weights that are computed from other parameters in every forward pass."""
    first, last = kind(nn.Conv2d(2, 4, 3)), kind(nn.Linear(16, CLASSES))
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), last)


def channels_last() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, CLASSES))
    return model.to(memory_format=torch.channels_last)


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Conv2d(4, 8, 3, stride=2, groups=4, bias=False),
        nn.PReLU(),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


class Smooth(nn.Module):
    """Every smooth activation, in place with and without its result, as a gate and twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.mix = nn.ModuleList(nn.Linear(16, 16) for _ in range(10))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.conv(x), inplace=True)
        h = h * self.gate(h.mean((2, 3), keepdim=True)).sigmoid()  # squeeze and excitation
        h = F.gelu(h, approximate="tanh").flatten(1)
        a, b, c, d, e, f, g, i, j, k = self.mix
        h = F.gelu(a(h)) + F.elu(b(h), 0.5, inplace=True)
        h = F.softplus(c(h), beta=2) + F.logsigmoid(d(h))
        h = F.hardswish(e(h)) * torch.tanh(f(h))
        h = g(h)
        h.tanh_()
        h = F.selu(F.mish(i(h), inplace=True), inplace=True)
        return self.head(torch.celu_(j(h), 0.5) + F.hardswish(k(h), inplace=True))


class Normalised(nn.Module):
    """Every normalisation by rows, of images, of channels behind them and of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.groups = nn.Conv2d(2, 6, 3, padding=1), nn.GroupNorm(3, 6)
        self.images, self.rms = nn.InstanceNorm2d(6, affine=True), nn.RMSNorm((6, 3, 3), eps=0.1)
        self.places, self.last = nn.LayerNorm(6), nn.LayerNorm((3, 6), elementwise_affine=False)
        self.head = nn.Linear(54, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).to(memory_format=torch.channels_last)
        h = h + self.groups(h) * self.images(h).sigmoid()
        h = self.places(self.rms(h).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        h = F.layer_norm(torch.tanh(h), (3,)).transpose(1, 3)
        return self.head(F.group_norm(self.last(h).flatten(1), 2, eps=0.1))


def dense() -> nn.Module:
    """Outputs that are images [N, 2, 3, 3]."""
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.GELU(), nn.Conv2d(3, 2, 1))


OTHERS = {
    "shared": (Shared, (2, 3, 3)),
    "functional": (Functional, (1, 9, 9)),
    "convolutions": (Convolutions, (4, 9)),
    "unused": (Unused, (6,)),
    "embedded": (Embedded, (6,)),
    "frozen": (frozen, (9,)),
    "weight_norm": (lambda: normed(parametrizations.weight_norm), (2, 4, 4)),
    "old weight_norm": (lambda: normed(nn.utils.weight_norm), (2, 4, 4)),
    "channels_last": (channels_last, (3, 6, 6)),
    "grouped": (grouped, (2, 7, 7)),
    "smooth": (Smooth, (2, 2, 2)),
    "normalised": (Normalised, (2, 3, 3)),
    "dense": (dense, (2, 3, 3)),
}
