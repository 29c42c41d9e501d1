"""How long does DeepFool take, against other toolboxes at equal results?

python -m benchmarks.deepfool mnist [--peers foolbox art torchattacks] [--images 1000]
python -m benchmarks.deepfool classes
python -m benchmarks.deepfool cifar --data FOLDER
"""

import argparse
import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import environment, print_table, write
from jacfast import data, models
from jacfast.evaluation import accuracy
from jacfast.timing.attacks import against
from jacfast.timing.toolboxes import ART, FOOLBOX, FOOLBOX_ALL, TORCHATTACKS
from jacfast.training import fit

PEERS = {"foolbox": FOOLBOX, "art": ART, "torchattacks": TORCHATTACKS}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclasses.dataclass
class Case:
    """A network and the images to attack."""

    title: str
    model: nn.Module
    x: Tensor
    y: Tensor
    about: dict


def trained(
    title: str,
    model: nn.Module,
    split: data.Split,
    images: int,
    epochs: int,
    batch_size: int = 250,
) -> Case:
    """Train the network on the training images, and take the first test images."""
    x, y = split.train_x.to(DEVICE), split.train_y.to(DEVICE)
    fit(
        model.to(DEVICE),
        x,
        y,
        epochs=epochs,
        batch_size=batch_size,
        lr=1e-3,
        loss=lambda model, x, y: F.cross_entropy(model(x), y),
    )
    model.eval()
    test_x, test_y = split.test_x[:images].to(DEVICE), split.test_y[:images].to(DEVICE)
    return Case(title, model, test_x, test_y, {"accuracy": accuracy(model, test_x, test_y)})


def mnist(_: argparse.Namespace) -> Case:
    """1,000 of the digits that come with the library, and the TF tutorial's network."""
    torch.manual_seed(0)
    split = data.load(None)
    return trained("MNIST digits, TF-tutorial CNN", models.tf_tutorial_cnn(), split, 1000, 6)


def cifar(options: argparse.Namespace) -> Case:
    """500 CIFAR-10 images from a folder of the user's, and a network trained on 20,000 of them."""
    torch.manual_seed(0)
    split = data.load(options.data)
    part = dataclasses.replace(split, train_x=split.train_x[:20000], train_y=split.train_y[:20000])
    return trained("CIFAR-10, CIFAR CNN", models.cifar_cnn(), part, 500, 5, 50)


def synthetic(
    samples: int, classes: int, shape: tuple[int, ...], model: nn.Module, epochs: int
) -> Case:
    """Classes that are each a random image under noise, and a network trained to tell them."""
    torch.manual_seed(0)
    means, y = torch.rand(classes, *shape), torch.arange(5000 + samples) % classes
    x = (means[y] + 0.3 * torch.randn(len(y), *shape)).clamp(0, 1)
    split = data.Split(x[samples:], y[samples:], x[:samples], y[:samples], classes, "synthetic")
    return trained(f"{classes} synthetic classes, all candidates", model, split, samples, epochs)


def classes(_: argparse.Namespace) -> Case:
    """100 synthetic classes and a small convolutional network."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels, width in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(channels, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 100))
    return synthetic(100, 100, (3, 16, 16), model, epochs=6)


CASES = {"mnist": mnist, "cifar": cifar, "classes": classes}


def main() -> None:
    """Time every peer asked for, print a table each and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["foolbox"])
    parser.add_argument("--images", type=int, help="how many of the case's images; default all")
    parser.add_argument("--data", type=Path, help="the folder with CIFAR-10, for the case cifar")
    options = parser.parse_args()
    case = CASES[options.case](options)
    case.x, case.y = case.x[: options.images], case.y[: options.images]
    peers = {"foolbox": FOOLBOX_ALL} if options.case == "classes" else PEERS
    for name in options.peers:
        results = {"environment": environment(peers[name].package), "case": case.title}
        results |= {"images": len(case.x), "at once": peers[name].at_once, **case.about}
        rows = results["rows"] = against(case.model, case.x, case.y, peers[name])
        table = [("", "seconds", "mean ||r||", "fooled", "vjps", "times as fast")]
        for label, row in rows.items():
            seconds, ratio = row["seconds"]["median"], row.get("ratio")
            table.append(
                (
                    label,
                    f"{seconds:.2f}",
                    f"{row['mean_norm']:.4f}",
                    f"{100 * row['fooled']:.1f}%",
                    f"{row['vjps']:.1f}" if ratio else "",
                    f"{ratio:.1f}" if ratio else "",
                )
            )
        print_table(f"{case.title}, {len(case.x)} images, {DEVICE.type}", table)
        print("written:", write(f"deepfool-{options.case}-{name}-{DEVICE.type}", results))


if __name__ == "__main__":
    main()
