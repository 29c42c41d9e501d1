"""The arguments that commands share, and how their values are read."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jacfast.calling import check_weights
from jacfast.checks import MOST
from jacfast.data.split import Split
from jacfast.files import check_writable
from jacfast.meeting import place
from jacfast.training.mode import set_mode

MODEL = (
    "package.module:factory or file.py:factory of your own; torchvision:NAME, timm:NAME, "
    "transformers:CLASS; or a network of jacfast.models, such as seck_c"
)
DATA = "folder with MNIST IDX files, CIFAR pickles or images; default: 5,000 digits"


class Help(argparse.HelpFormatter):
    """Help that names defaults, where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        plain = action.default in (None, [], argparse.SUPPRESS) or action.const is True
        return action.help if plain else f"{action.help} (default: %(default)s)"


def add_classifier(add: Callable[..., Any]) -> None:
    """Add --model, --weights and --data, for `classifier`, by a parser's add_argument."""
    add("--model", required=True, help=MODEL)
    add("--weights", type=file, required=True, help="its state_dict (.pt or .safetensors)")
    add("--data", type=existing_folder, help=DATA)


def trained(model: str, weights: Path) -> nn.Module:
    """Return the trained model, in eval mode."""
    from jacfast import models

    network = models.load_factory(model)
    models.load_weights(network, weights)
    check_weights(network)
    return set_mode(network, training=False)


def classifier(
    model: str,
    weights: Path,
    split: Split,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> nn.Module:
    """Return the trained model, in eval mode, after a look whether it is one for this data."""
    from jacfast import models

    network = models.normalized(trained(model, weights), mean, std, split)
    models.check_fits(network, split)
    return network


def add_device(add: Callable[..., Any]) -> None:
    """Add --device."""
    add(
        "--device",
        type=_device,
        default="cpu",
        help="cpu or cuda; of several processes each has its own GPU",
    )


def add_quiet(add: Callable[..., Any]) -> None:
    """Add --quiet."""
    add("--quiet", action="store_true", help="show no progress")


def add_run(add: Callable[..., Any]) -> None:
    """Add where a command runs, and what it prints: --device, --quiet and --json."""
    add_device(add)
    add_quiet(add)
    add("--json", action="store_true", help="print the figures as one JSON object, and no words")


def _device(text: str) -> str:
    if text == "cuda" and torch.cuda.device_count() > 1:
        text = f"cuda:{place()[1]}"
    try:
        torch.zeros(1, device=text).item()
    except (RuntimeError, AssertionError) as error:  # the second: a torch without CUDA
        raise argparse.ArgumentTypeError(f"must be one that torch can use; got {text!r}") from error
    return text


def folder(text: str) -> Path:
    """Return --out of a command that writes several files."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, or not be there; {text} is a file")
    _check_writable(path, text)
    return path


def _check_writable(folder: Path, text: str) -> None:
    try:
        check_writable(folder)
    except OSError as error:
        got = f"{text} ({error.filename}: {error.strerror})"
        raise argparse.ArgumentTypeError(f"must be where files can be made; got {got}") from error


def new_file(text: str) -> Path:
    """Return a file to write, whose folder is there."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a folder that is there; got {text}")
    if path.is_file() or not path.exists():  # else a device, or a pipe
        _check_writable(path.resolve().parent, text)  # of a link, where it leads
    return path


def existing_folder(text: str) -> Path:
    """Return a folder to read from."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder that is there; got {text}")
    return path


def file(text: str) -> Path:
    """Return a file to read."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"must be a file that is there; got {text} (no such file)")
    return path


def count(text: str, most: int = MOST) -> int:
    """Return a number of things: an integer, 1 or more."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer; got {text!r}") from None
    if not 1 <= value <= most:
        limit = ">= 1" if value < 1 else f"<= 2^{most.bit_length()} - 1"
        raise argparse.ArgumentTypeError(f"must be {limit}; got {text}")
    return value


def number(text: str) -> float:
    """Return a number: 0.03, 1e-3, inf, or a fraction such as 8/255."""
    top, line, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if line else float(top)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"must be a number, such as 0.03 or 8/255; got {text!r}")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """Return --mean or --std: numbers with commas between."""
    return tuple(number(part) for part in text.split(","))


def add_normalize(add: Callable[..., Any]) -> None:
    """Add --mean and --std."""
    about = "of the normalisation that the model expects, one value or one per channel"
    add("--mean", type=numbers, metavar="M,M,M", help=f"{about}; images stay in [0, 1]")
    add("--std", type=numbers, metavar="S,S,S", help="goes with --mean: (x - mean) / std")
