"""A wide residual network for CIFAR-10, trained plainly: `benchmarks.minimal_norm --network`.

python -m benchmarks.wide FOLDER FILE [--epochs 12]
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import data
from jacfast.evaluation import accuracy
from jacfast.reproduce import recipe
from jacfast.reproduce.phase import Training
from jacfast.training import Defence, fit


class Block(nn.Module):
    """Two convolutions, each behind a batch-norm and ReLU, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = F.relu(self.norm1(x))
        return self.shortcut(before) + self.conv2(F.relu(self.norm2(self.conv1(before))))


def wide_resnet(width: int = 2) -> nn.Sequential:
    """Return WRN-10-k of Zagoruyko & Komodakis 2016 for [N, 3, 32, 32], k the width."""
    sizes = (16, 16 * width, 32 * width, 64 * width)
    return nn.Sequential(
        nn.Conv2d(3, sizes[0], 3, padding=1, bias=False),
        *(Block(sizes[i], sizes[i + 1], stride) for i, stride in enumerate((1, 2, 2))),
        *(nn.BatchNorm2d(sizes[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(sizes[-1], 10),
    )


def main() -> None:
    """Train, say the accuracy on the test images, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with CIFAR-10")
    parser.add_argument("file", type=Path, help="of the weights")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    training = Training(
        epochs=arguments.epochs,
        batch_size=128,
        optimizer="sgd",
        lr=0.2,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="one-cycle",
        crop_padding=4,
        horizontal_flip=True,
        precision="bfloat16",
    )
    split = data.load(arguments.folder)
    torch.manual_seed(0)
    model = wide_resnet()
    optimizer = recipe.optimizer(training, model.parameters())
    steps = training.epochs * -(-len(split.train_x) // training.batch_size)
    fit(
        model,
        split.train_x,
        split.train_y,
        epochs=training.epochs,
        batch_size=training.batch_size,
        optimizer=optimizer,
        scheduler=recipe.scheduler(training, optimizer, steps),
        scheduler_interval="step",
        loss=recipe.stepped(training, Defence()),
    )
    print(f"accuracy {100 * accuracy(model.eval(), split.test_x, split.test_y):.2f}%")
    torch.save(model.state_dict(), arguments.file)


if __name__ == "__main__":
    main()
