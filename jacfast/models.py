"""The networks of the papers, and how a user's own model comes in."""

import importlib
import itertools
import sys
from pathlib import Path

import torch
from torch import nn


def tf_tutorial_cnn() -> nn.Sequential:
    """Return the TensorFlow-tutorial CNN for [N, 1, 28, 28]; 3,274,634 parameters.

    Source: Jakubovitz & Giryes 2018, section 4 (MNIST).
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 10),
    )  # fmt: skip


def cifar_cnn(classes: int = 10) -> nn.Sequential:
    """Return a CNN for [N, 3, 32, 32]: four sets of conv, conv, max-pool, dropout, then two FC.

    Source: Jakubovitz & Giryes 2018, section 4 (CIFAR). The paper gives neither widths nor kernels:
    3x3, widths 32, 64, 128, 128 and 256 neurons are the choice made here.
    """
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128, 128):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Dropout(0.25)]
        channels = width
    layers += [nn.Flatten(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, classes)]
    return nn.Sequential(*layers)


def mlp(*widths: int) -> nn.Sequential:
    """Return a ReLU network of fully connected layers, ``mlp(784, 100, 10)``; inputs flattened."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def fc500() -> nn.Sequential:
    """Return 784-500-150-10 (Moosavi-Dezfooli et al. 2016, table 1); 469,160 parameters."""
    return mlp(784, 500, 150, 10)


def deep_defense_mlp() -> nn.Sequential:
    """Return 784-100-10 with weights from a normal of sd 0.01 cut at 2 sd (Deng et al.); 79,510."""
    model = mlp(784, 100, 10)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)
    return model


def seck_a() -> nn.Sequential:
    """Return model A of Seck, Loosli & Canu, for [N, 1, 28, 28]; 710,218 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 8, stride=2, padding=3), nn.ReLU(),
        nn.Conv2d(64, 128, 6, stride=2), nn.ReLU(),
        nn.Conv2d(128, 128, 5), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def seck_b() -> nn.Sequential:
    """Return model B of Seck, Loosli & Canu, for [N, 1, 28, 28]; 1,460,938 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 64, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 13 * 13, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def seck_c() -> nn.Sequential:
    """Return model C of Seck, Loosli & Canu, 784-512-256-128-10; 567,434 parameters."""
    return mlp(784, 512, 256, 128, 10)


def load_factory(spec: str) -> nn.Module:
    """Import ``package.module:factory``, the current folder included, and call the factory.

    Raises:
        ValueError: the spec is malformed, or the module or factory does not exist.
        TypeError: what the factory returned is not a torch.nn.Module.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise ValueError(f"model must be package.module:factory; got {spec!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model {spec!r} cannot be imported; {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    model = factory()
    if not isinstance(model, nn.Module):
        raise TypeError(f"model {spec!r} must return a torch.nn.Module; got {type(model).__name__}")
    return model


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a state_dict (.pt, or .safetensors) into `model`, whole or not at all.

    Nothing in the file is executed (``weights_only=True``).

    Raises:
        FileNotFoundError: no such file. ValueError: it is no state_dict, or does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} are not there")
    state = _read_state(path)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"weights {path} must be a state_dict of tensors")
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    problems += [
        f"{key} is {list(state[key].shape)}, the model's {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        raise ValueError(f"weights {path} must fit the model: {'; '.join(problems[:8])}")
    model.load_state_dict(state)


def _read_state(path: Path) -> object:
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ImportError("reading .safetensors: run pip install safetensors") from error
        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can fail in any way
        raise ValueError(f"weights {path} must be a state_dict; {error}") from error
