"""How long does DeepFool take, against other toolboxes at equal results?

python -m benchmarks.deepfool mnist [--peers foolbox art torchattacks]
python -m benchmarks.deepfool classes
python -m benchmarks.deepfool cifar --data FOLDER
"""

import argparse
import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import environment, print_table, take_turns, write
from benchmarks.peers import ART, FOOLBOX, FOOLBOX_ALL, TORCHATTACKS, Peer, call
from jacfast import data, deepfool, models
from jacfast.training import fit
from jacfast.training.measure import accuracy

PEERS = {"foolbox": FOOLBOX, "art": ART, "torchattacks": TORCHATTACKS}
REPEATS = 3


@dataclasses.dataclass
class Case:
    """A network and the images to attack."""

    title: str
    model: nn.Module
    x: Tensor
    y: Tensor
    about: dict


def trained(title: str, model: nn.Module, split: data.Split, images: int, epochs: int) -> Case:
    """Train the network on the training images, and take the first test images."""
    x, y = split.train_x, split.train_y
    fit(
        model,
        x,
        y,
        epochs=epochs,
        batch_size=250,
        lr=1e-3,
        loss=lambda model, x, y: F.cross_entropy(model(x), y),
    )
    model.eval()
    test_x, test_y = split.test_x[:images], split.test_y[:images]
    return Case(title, model, test_x, test_y, {"accuracy": accuracy(model, test_x, test_y)})


def mnist(_: argparse.Namespace) -> Case:
    """1,000 of the digits that come with the library, and the TF tutorial's network."""
    torch.manual_seed(0)
    split = data.load(None)
    return trained("1,000 MNIST digits, TF-tutorial CNN", models.tf_tutorial_cnn(), split, 1000, 6)


def cifar(options: argparse.Namespace) -> Case:
    """500 CIFAR-10 images from a folder of the user's, and a network trained on 10,000 of them."""
    torch.manual_seed(0)
    split = data.load(options.data)
    part = dataclasses.replace(split, train_x=split.train_x[:10000], train_y=split.train_y[:10000])
    return trained("500 CIFAR-10 images, CIFAR CNN", models.cifar_cnn(), part, 500, 6)


def classes(_: argparse.Namespace) -> Case:
    """100 classes, each a random image under noise, and a small network trained to tell them."""
    torch.manual_seed(0)
    means, y = torch.rand(100, 3, 16, 16), torch.arange(5100) % 100
    x = (means[y] + 0.3 * torch.randn(5100, 3, 16, 16)).clamp(0, 1)
    split = data.Split(x[100:], y[100:], x[:100], y[:100], 100, "synthetic")
    layers: list[nn.Module] = []
    for channels, width in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(channels, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 100))
    return trained("100 synthetic classes, CNN, all candidates", model, split, 100, 6)


CASES = {"mnist": mnist, "cifar": cifar, "classes": classes}


def against(case: Case, peer: Peer) -> dict:
    """Verify that the attacks agree with the peer's choices; time them, and ours without a box."""
    x, y = case.x, case.y
    attack = peer.make(case.model, x, case.model(x[:1]).shape[1])
    default = {"candidates": peer.choices["candidates"]}
    runs = {
        "same choices": lambda: deepfool(case.model, x, y, **peer.choices),
        "no box": lambda: deepfool(case.model, x, y, **default),
        peer.package: lambda: call(attack, x, y),
    }
    found = {name: run() for name, run in runs.items() if name != peer.package}
    theirs: list[Tensor] = []
    timed = {name: runs[name] for name in found} | {
        peer.package: lambda: theirs.append(runs[peer.package]())
    }
    if peer.repeats:
        times = take_turns(timed, peer.repeats)
    else:
        times = take_turns({name: runs[name] for name in found}, REPEATS)
        call(attack, x[:2], y[:2])
        times |= take_turns({peer.package: timed[peer.package]}, 1, warm=False)
    with torch.no_grad():
        fooled = case.model(theirs[-1]).argmax(dim=1) != y
    norm = (theirs[-1] - x).flatten(1).norm(dim=1)
    rows = {peer.package: {"mean_norm": float(norm.mean()), "fooled": float(fooled.float().mean())}}
    for name, result in found.items():
        rows[name] = {
            "mean_norm": float(result.norm.mean()),
            "fooled": float(result.success.float().mean()),
            "vjps": float(result.vjps.double().mean()),
            "ratio": times[peer.package]["median"] / times[name]["median"],
        }
    agree(rows["same choices"], rows[peer.package])
    return {name: row | {"seconds": times[name]} for name, row in rows.items()}


def agree(ours: dict, theirs: dict) -> None:
    """Raise where mean ||r|| is more than 1% apart, or another share of the samples is fooled."""
    apart = abs(ours["mean_norm"] / theirs["mean_norm"] - 1)
    if apart > 0.01 or ours["fooled"] != theirs["fooled"]:
        raise RuntimeError(f"the attacks must agree; jacfast: {ours}, peer: {theirs}")


def main() -> None:
    """Time every peer asked for, print a table each and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["foolbox"])
    parser.add_argument("--data", type=Path, help="the folder with CIFAR-10, for the case cifar")
    options = parser.parse_args()
    case = CASES[options.case](options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case.model.to(device)
    case.x, case.y = case.x.to(device), case.y.to(device)
    peers = {"foolbox": FOOLBOX_ALL} if options.case == "classes" else PEERS
    results = {"environment": environment(*(peers[name].package for name in options.peers))}
    results |= {"case": case.title, **case.about, "peers": {}}
    for name in options.peers:
        rows = results["peers"][name] = against(case, peers[name])
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
        print_table(f"{case.title}, {device.type}", table)
    print("written:", write(f"deepfool-{options.case}-{device.type}", results))


if __name__ == "__main__":
    main()
