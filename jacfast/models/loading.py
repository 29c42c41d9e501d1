"""How a user's own model comes in: a factory by its name, weights from a file."""

import contextlib
import copy
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from jacfast import checks
from jacfast.models import networks
from jacfast.models.weights import bare, is_extra, read_state, some
from jacfast.models.zoo import ZOOS, is_of_zoo, of_zoo

NEAR = 8  # names to choose from, in one message


def load_factory(spec: str, classes: int | None = None) -> nn.Module:
    """Return the model that a spec names.

    ``package.module:factory`` or ``file.py:factory``, the current folder included: what the factory
    returns, or the model itself that has this name; ``torchvision:resnet18``,
    ``timm:vit_tiny_patch16_224``, ``transformers:ViTForImageClassification``: that architecture,
    with random weights; ``seck_c``: a network of `jacfast.models`.

    As under ``python -m``, the current folder comes first; it is off ``sys.path`` again afterwards.
    Meanwhile ``sys.argv`` holds the name of the module or file alone.

    Args:
        classes: number of outputs, for an architecture of a zoo; default: its own.

    Raises:
        ValueError: the spec is malformed, the module cannot be imported, it has no such function,
            or the function fails. TypeError: it does not return a torch.nn.Module. ImportError: the
            zoo is not installed.
    """
    if not isinstance(spec, str):
        raise TypeError(f"spec must be a str, the name of a model; got {type(spec).__name__}")
    if is_of_zoo(spec):
        return of_zoo(spec, classes)
    if spec in networks.NAMES:
        spec = f"jacfast.models:{spec}"
    module_name, _, name = spec.rpartition(":")
    of_file = module_name.endswith(".py")
    malformed = module_name.startswith(".") or ":" in module_name or not module_name
    if not name.isidentifier() or (malformed and not of_file):
        raise ValueError(
            "model must be package.module:factory; got "
            f"{spec!r} (or file.py:factory, {', '.join(f'{zoo}:NAME' for zoo in ZOOS)}, or one of "
            f"{', '.join(networks.NAMES)})"
        )
    own = Path(module_name).resolve().parent if of_file else Path.cwd()
    # of a factory, too, which may import late, and read arguments
    with _first(Path.cwd()), _first(own), _without_arguments(module_name):
        module = _import(spec, module_name, of_file)
        model = _made(spec, module, module_name, name)
    if not isinstance(model, nn.Module):
        remedy = ": return its .module()" if isinstance(model, torch.export.ExportedProgram) else ""
        raise TypeError(
            f"model {spec!r} must return a torch.nn.Module; got {type(model).__name__}{remedy}"
        )
    return model


def _made(spec: str, module: ModuleType, module_name: str, name: str) -> Any:
    """Return the model of that name in `module`, or what the factory of that name returns."""
    factory = getattr(module, name, None)
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        has = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        near = difflib.get_close_matches(name, has, NEAR)
        raise ValueError(
            f"model {spec!r} cannot be imported; {module_name} must have a function {name}"
            + (f"; near to it: {', '.join(near)}" if near else ", and has none of a like name")
        )
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"model {spec!r} cannot be made; {name}() raised {type(error).__name__}: {error}"
        ) from error


def _import(spec: str, module_name: str, of_file: bool) -> ModuleType:
    try:
        return _of_file(Path(module_name)) if of_file else importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module does on import
        ends = " (it must not end the process: put what it runs under if __name__ == '__main__')"
        raise ValueError(
            f"model {spec!r} cannot be imported; {type(error).__name__}: {error}"
            + ends * isinstance(error, SystemExit)
        ) from error


def _of_file(path: Path) -> ModuleType:
    """Import a file, by its own name unless another module has it."""
    name = path.stem if path.stem not in sys.modules else str(path)
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _first(folder: Path) -> Iterator[None]:
    here = str(folder)
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's module may have taken it off
            sys.path.remove(here)


@contextlib.contextmanager
def _without_arguments(name: str) -> Iterator[None]:
    """Let a user's module find no arguments: those of this process are not for it."""
    before, sys.argv = sys.argv, [name]
    try:
        yield
    finally:
        sys.argv = before


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a state_dict (.safetensors, or any other name for what torch.save wrote) into `model`.

    Whole or not at all: when it fails, the model is as it was. Nothing in the file is executed. A
    state_dict inside a checkpoint is found, and what wrappers put before the keys (``module.``,
    ``_orig_mod.``, ``model.``) comes off where the model has none of it. What a module has of
    ``get_extra_state`` goes to its ``set_extra_state``.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no state_dict, does not fit (the message
            names the keys, or the error of a ``set_extra_state``). ImportError: .safetensors
            without the package safetensors.
    """
    path = checks.path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} are not there (no such file)")
    state = bare(read_state(path), model.state_dict())
    check_state(model, state, f"weights {path}")
    if not any(map(is_extra, state)):
        model.load_state_dict(state)
        return
    before = copy.deepcopy(model.state_dict())
    try:
        model.load_state_dict(state)
    except (Exception, SystemExit) as error:  # whatever a module makes of its own state
        with contextlib.suppress(Exception, SystemExit):  # it may refuse its own, too
            model.load_state_dict(before)
        raise ValueError(
            f"weights {path} must fit the model: {type(error).__name__}: {error}"
        ) from error


def check_state(
    model: nn.Module, state: dict[str, Any], source: str, name: str = "the model"
) -> None:
    """Check that `state` can be loaded into `model` as a whole.

    Raises:
        ValueError: it cannot; the message names `source`, `name` and the keys.
    """
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    for key in own:
        if is_extra(key) or key not in state:
            continue
        if misfit := _misfit(own[key], state[key]):
            problems.append(f"{key} is {misfit}")
    if problems:
        raise ValueError(f"{source} must fit {name}: {some(problems)}")


def _misfit(own: Any, new: Any) -> str | None:
    """Say why `new` cannot be loaded into `own`; None if it can."""
    if not isinstance(own, Tensor):
        return None  # what a module keeps beside its tensors is its own affair
    if not isinstance(new, Tensor):
        return f"{type(new).__name__}, the model's a tensor"
    if new.shape != own.shape:
        return f"{list(new.shape)}, the model's {list(own.shape)}"
    if not torch.can_cast(new.dtype, own.dtype):
        return f"{new.dtype}, the model's {own.dtype}"
    if new.is_meta or new.is_quantized or new.layout != torch.strided:
        return "not a plain tensor with values"
    return None
