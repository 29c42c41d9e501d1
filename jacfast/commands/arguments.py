"""The arguments that commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jacfast.data.split import Split

DATA = "folder with MNIST IDX files, CIFAR pickles or images; default: 5,000 digits"


def add_classifier(add: Callable[..., Any]) -> None:
    """Add --model, --weights and --data, for `classifier`, by a parser's add_argument."""
    add("--model", required=True, help="package.module:factory, e.g. jacfast.models:seck_c")
    add("--weights", type=Path, required=True, help="its state_dict (.pt or .safetensors)")
    add("--data", type=Path, help=DATA)


def classifier(model: str, weights: Path, split: Split) -> nn.Module:
    """Return the trained model, in eval mode, after a look whether it is one for this data."""
    from jacfast import models

    network = models.load_factory(model)
    models.load_weights(network, weights)
    models.check_fits(network, split)
    return network.eval()


def add_device(add: Callable[..., Any]) -> None:
    """Add --device."""
    add("--device", type=_device, default="cpu", help="cpu or cuda")


def _device(text: str) -> str:
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
    return path
