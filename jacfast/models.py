"""The networks of the papers, and how a user's own model comes in.

The networks take images in [0, 1] and return logits; Seck's A and B need [N, 1, 28, 28] like the
TensorFlow tutorial's, the fully connected ones flatten what they get.
"""

import contextlib
import importlib
import itertools
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

SHOWN = 8  # offending keys named in one message


def tf_tutorial_cnn() -> nn.Sequential:
    """Return the TensorFlow-tutorial CNN for [N, 1, 28, 28]; 3,274,634 parameters.

    Two sets of conv 5x5 (32, 64; same padding), ReLU, max-pool 2; then 3136-1024-10, dropout 0.5.

    Source: Jakubovitz & Giryes 2018, section 4 (MNIST).
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 10),
    )  # fmt: skip


def cifar_cnn(classes: int = 10) -> nn.Sequential:
    """Return a CNN for [N, 3, 32, 32]; 716,074 parameters for 10 classes, 739,204 for 100.

    Four sets of conv, conv, max-pool 2, dropout (keep 0.75), then two fully connected layers; ReLU.

    Source: Jakubovitz & Giryes 2018, section 4 (CIFAR). The paper gives neither widths nor kernels:
    3x3 with same padding, widths 32, 64, 128, 128 and 256 neurons are the choice made here.

    Raises:
        ValueError: classes < 2.
    """
    if classes < 2:
        raise ValueError(f"classes must be >= 2; got {classes}")
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
    """Return a ReLU network of fully connected layers, ``mlp(784, 100, 10)``; inputs flattened.

    Raises:
        ValueError: fewer than two widths, or one below 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be two sizes or more, each >= 1; got {widths}")
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def fc500() -> nn.Sequential:
    """Return 784-500-150-10; 469,160 parameters.

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016, table 1 (FC500-150-10).
    """
    return mlp(784, 500, 150, 10)


def deep_defense_mlp() -> nn.Sequential:
    """Return 784-100-10; 79,510 parameters.

    Weights from a normal of sd 0.01, cut at 2 sd as TensorFlow cuts it; biases 0 (the paper is
    silent on both).

    Source: Deng, Zhang & Zhao, Deep Defense re-implemented.
    """
    model = mlp(784, 100, 10)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)
    return model


def seck_a() -> nn.Sequential:
    """Return model A for [N, 1, 28, 28]; 710,218 parameters.

    Convs of 64, 128, 128 filters, kernels 8, 6, 5, strides 2, 2, 1; then 128-10. The paper gives no
    padding: same, valid, valid is what its parameter count admits.

    Source: Seck, Loosli & Canu, L1-norm double backpropagation adversarial defense.
    """
    return nn.Sequential(
        nn.Conv2d(1, 64, 8, stride=2, padding=3), nn.ReLU(),
        nn.Conv2d(64, 128, 6, stride=2), nn.ReLU(),
        nn.Conv2d(128, 128, 5), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def seck_b() -> nn.Sequential:
    """Return model B for [N, 1, 28, 28]; 1,460,938 parameters.

    Convs of 128, 64 filters, kernel 3, strides 1, 2; then 10816-128-10. The paper gives no padding:
    of the two choices that its parameter count admits, this is same, valid.

    Source: Seck, Loosli & Canu, L1-norm double backpropagation adversarial defense.
    """
    return nn.Sequential(
        nn.Conv2d(1, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 64, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 13 * 13, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def seck_c() -> nn.Sequential:
    """Return model C, 784-512-256-128-10; 567,434 parameters.

    Source: Seck, Loosli & Canu, L1-norm double backpropagation adversarial defense.
    """
    return mlp(784, 512, 256, 128, 10)


def load_factory(spec: str) -> nn.Module:
    """Import ``package.module:factory``, the current folder included, and call the factory.

    As under ``python -m``, the current folder comes first; it is off ``sys.path`` again afterwards.

    Raises:
        ValueError: the spec is malformed, the module cannot be imported, it has no such function,
            or the function fails. TypeError: it does not return a torch.nn.Module.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or module_name.startswith(".") or not name.isidentifier():
        raise ValueError(f"model must be package.module:factory; got {spec!r}")
    with _current_folder_first():
        factory = getattr(_import(spec, module_name), name, None)
        if not callable(factory):
            raise ValueError(
                f"model {spec!r} cannot be imported; {module_name} must have a function {name}"
            )
        try:
            model = factory()
        except Exception as error:
            raise ValueError(
                f"model {spec!r} cannot be made; {name}() raised {type(error).__name__}: {error}"
            ) from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"model {spec!r} must return a torch.nn.Module; got {type(model).__name__}")
    return model


def _import(spec: str, module_name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module does on import
        raise ValueError(
            f"model {spec!r} cannot be imported; {type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def _current_folder_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's module may have taken it off
            sys.path.remove(here)


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a state_dict (.safetensors, or any other name for what torch.save wrote) into `model`.

    Whole or not at all: when it fails, the model is as it was. Nothing in the file is executed.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no state_dict, or does not fit; the
            message names the keys. ImportError: .safetensors without the package safetensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} are not there (no such file)")
    state = _read_state(path)
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    for key in own:
        if key in state and (misfit := _misfit(own[key], state[key])):
            problems.append(f"{key} is {misfit}")
    if problems:
        raise ValueError(f"weights {path} must fit the model: {_some(problems)}")
    model.load_state_dict(state)


def _misfit(own: Tensor, new: Tensor) -> str | None:
    """Say why `new` cannot be loaded into `own`; None if it can."""
    if new.shape != own.shape:
        return f"{list(new.shape)}, the model's {list(own.shape)}"
    if not torch.can_cast(new.dtype, own.dtype):
        return f"{new.dtype}, the model's {own.dtype}"
    if new.is_meta or new.is_quantized or new.layout != torch.strided:
        return "not a plain tensor with values"
    return None


def _some(problems: list[str]) -> str:
    rest = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + rest


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file as read
        except ImportError as error:
            raise ImportError(
                f"{path} needs the package safetensors: run pip install safetensors"
            ) from error
    else:
        read = partial(torch.load, map_location="cpu", weights_only=True)
    try:
        state = read(path)
    except Exception as error:  # a damaged or hostile file can fail in any way
        raise ValueError(
            f"weights {path} must be a state_dict; the file is damaged, or holds more than tensors "
            f"(nothing in it was run): {type(error).__name__}"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(
            f"weights {path} must be a state_dict of tensors; got {type(state).__name__}"
        )
    others = [f"{k!r} is {type(v).__name__}" for k, v in state.items() if not _is_weight(k, v)]
    if others:
        raise ValueError(f"weights {path} must be a state_dict of tensors; {_some(others)}")
    return state


def _is_weight(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)
