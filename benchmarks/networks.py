"""Networks that are timed and are none of the papers'."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Attention and a two-layer network, each behind a layer-norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.mlp(self.between(x))


class ViT(nn.Module):
    """A vision transformer for [N, 3, 32, 32]: patches of 4 x 4, mean of the tokens, 10 logits."""

    def __init__(self, depth: int = 4, width: int = 192, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.places = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


class Residual(nn.Module):
    """x + GELU(linear(layer-norm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.gelu(self.linear(self.norm(x)))


def residual_blocks(depth: int = 96, width: int = 32) -> nn.Sequential:
    """Return that many residual blocks on [N, width], 10 logits: many calls on little data."""
    return nn.Sequential(*[Residual(width) for _ in range(depth)], nn.Linear(width, 10))


def norm_mlp() -> nn.Sequential:
    """Return an MLP with batch-norm for [N, 1, 28, 28]."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(784, 128), nn.BatchNorm1d(128), nn.ReLU()]
    layers += [nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def embedding_cnn(channels: int = 20, width: int = 32, outputs: int = 8) -> nn.Sequential:
    """Return five convolutions with GELU for [N, channels, 10], as contrastive embeddings use."""
    layers: list[nn.Module] = [nn.Conv1d(channels, width, 2), nn.GELU()]
    for _ in range(3):
        layers += [nn.Conv1d(width, width, 3), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv1d(width, outputs, 3), nn.Flatten())


def relu_cnn_1d(channels: int = 20, width: int = 32) -> nn.Sequential:
    """Return three convolutions with ReLU for [N, channels, 16], 10 logits."""
    layers: list[nn.Module] = []
    for before in (channels, width, width):
        layers += [nn.Conv1d(before, width, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(10 * width, 10))


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 with batch-norm, beside a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18(width: int = 64, channels: int = 3) -> nn.Sequential:
    """Return ResNet-18 in the form for small images: a stem of 3 x 3 and no pooling, 10 logits."""
    stem = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    blocks = [BasicBlock(width, width, 1), BasicBlock(width, width, 1)]
    for _ in range(3):
        blocks += [BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1)]
        width *= 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(*stem, *blocks, *head)
