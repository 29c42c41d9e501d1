"""A state_dict from a file, as people have them: bare, in a checkpoint, with a wrapper's prefix."""

import re
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jacfast.files import damage

SHOWN = 8  # offending keys in one message
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
REMEDY = "if you trust the file, write its weights alone: torch.save({}, 'weights.pt')"


def some(problems: list[str]) -> str:
    """Return the first of many problems."""
    rest = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + rest


def read_state(path: Path) -> dict[str, Any]:
    """Read a state_dict, also one inside a checkpoint. Nothing in the file is executed.

    Its values are tensors, but for what modules keep beside these.

    Raises:
        ValueError: it holds none; the message says what it is, and how to get the weights out.
            ImportError: .safetensors without the package safetensors.
    """
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file as read
        except ImportError as error:
            raise ImportError(
                f"{path} needs the package safetensors: run pip install safetensors"
            ) from error
    else:
        _refuse_programs(path)
        read = partial(torch.load, map_location="cpu", weights_only=True)
    try:
        state = read(path)
    except Exception as error:  # a damaged or hostile file can fail in any way
        raise ValueError(f"weights {path} must be a state_dict; {_reason(path, error)}") from error
    return _found(path, state)


def _refuse_programs(path: Path) -> None:
    """Name the remedy for archives of TorchScript and torch.export, which hold code."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] or name for name in archive.namelist()]
    for kind, there, weights in (
        ("torch.jit.save", "constants.pkl", "torch.jit.load({!r}).state_dict()"),
        ("torch.export.save", "archive_format", "torch.export.load({!r}).state_dict"),
    ):
        if there in names:
            remedy = REMEDY.format(weights.format(str(path)))
            raise ValueError(f"weights {path} must be a state_dict, not a file of {kind}; {remedy}")


def _reason(path: Path, error: Exception) -> str:
    """Say why a file cannot be read."""
    whole = re.search(r"GLOBAL ([\w.]+)", str(error))  # what it would have called
    if whole is None:
        return f"{damage(path, error)}: {type(error).__name__}"
    read = f"torch.load({str(path)!r}, weights_only=False).state_dict()"
    return (
        f"the file holds more than tensors, a {whole[1]}, as a whole pickled model does (nothing "
        f"in it was run); {REMEDY.format(read)}"
    )


def _found(path: Path, state: Any) -> dict[str, Any]:
    """Return the state_dict in what was read."""
    if not isinstance(state, dict):
        raise ValueError(
            f"weights {path} must be a state_dict of tensors; got {type(state).__name__}"
        )
    others = [f"{k!r} is {type(v).__name__}" for k, v in state.items() if not _is_weight(k, v)]
    if not others:
        return state
    inside = [name for name in WRAPPERS if isinstance(state.get(name), dict)]
    if len(inside) == 1:
        return _found(path, state[inside[0]])
    raise ValueError(f"weights {path} must be a state_dict of tensors; {some(others)}")


def _is_weight(key: object, value: object) -> bool:
    return isinstance(key, str) and (isinstance(value, Tensor) or is_extra(key))


def is_extra(key: str) -> bool:
    """Say whether an entry is what a module's ``get_extra_state`` returned: its own affair."""
    return key.rpartition(".")[2] == "_extra_state"


def bare(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return `state` without what a wrapper put before every key, and the model `own` has not."""
    if not any("_orig_mod." in key for key in own):  # torch.compile, also of a part
        state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    for prefix in PREFIXES * 2:
        if all(key.startswith(prefix) for key in state) and not state.keys() & own.keys():
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
