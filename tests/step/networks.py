"""Six small networks of the kinds that people train, as float64 models that always start alike."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

CLASSES = 5


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, CLASSES)
    )


def tutorial() -> nn.Module:
    """Two 5x5 convolutions, each halved by pooling, and two linear layers with dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 10),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(10, CLASSES),
    )


def cifar() -> nn.Module:
    """Pairs of 3x3 convolutions from three channels, every second one strided."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


class Basic(nn.Module):
    """Two convolutions with batch-norm, their input added to their output in place."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = self.shortcut(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return out.relu_()


def resnet() -> nn.Module:
    stem = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    blocks = [Basic(4, 4, 1), Basic(4, 6, 2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)]
    return nn.Sequential(*stem, *blocks, *head)


class NextBlock(nn.Module):
    """A depthwise convolution and an MLP over channels, scaled, with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.scale = nn.Parameter(0.5 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        h = self.depthwise(x).permute(0, 2, 3, 1)
        h = self.scale * self.down(F.gelu(self.up(self.norm(h))))
        return x + h.permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    patches = nn.Conv2d(2, 4, 2, stride=2)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, CLASSES)]
    return nn.Sequential(patches, NextBlock(4), NextBlock(4), *head)


class Attending(nn.Module):
    """A pre-norm transformer block of two heads, with the attention that differentiates twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 10), nn.GELU(), nn.Linear(10, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        with sdpa_kernel(SDPBackend.MATH):
            mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.Sequential(Attending(width), Attending(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.positions
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


SIX: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (12,)),
    "tutorial": (tutorial, (1, 8, 8)),
    "cifar": (cifar, (3, 8, 8)),
    "resnet": (resnet, (2, 8, 8)),
    "convnext": (convnext, (2, 8, 8)),
    "vit": (ViT, (2, 8, 8)),
}


def build(
    name: str, samples: int = 4, dtype: torch.dtype = torch.float64, nets: dict = SIX, seed: int = 0
) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, a batch and labels for it; the same numbers in every dtype.

    It is in training mode but for batch-norm, which has running statistics of its own.
    """
    make, shape = nets[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().double()
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                nn.init.normal_(layer.running_mean)
                nn.init.uniform_(layer.running_var, 0.5, 2.0)
                nn.init.uniform_(layer.weight, 1.0, 2.0)
                nn.init.normal_(layer.bias)
                layer.eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:  # as PyTorch leaves them Jacobians are tiny
                parameter.data *= 2
        x = torch.randn(samples, *shape, dtype=torch.float64)
    return model.to(dtype), x.to(dtype), torch.arange(samples) % CLASSES
