"""The state of a run in one file: written in one move, read without unpickling code."""

import collections
import copy
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from jacfast import checks
from jacfast.files import damage, write_atomically
from jacfast.memory import ran_out
from jacfast.runs import compare

Config = dict[str, str | int | float | None]
State = dict[str, Any]
PLAIN = (str, int, float, bool, type(None))
PARTS = {"config", "run", "epoch", "step", "model", "loss", "optimizer", "scheduler", "outputs"}
PARTS |= {"order", "random", "gpus", "loader"}  # the states of generators
# Numbers of NumPy with which Python's own go on as they would; float32 rounds otherwise.
AS_PLAIN = (np.float64, np.integer, np.bool_, np.str_)


def save_atomically(value: Any, path: Path) -> None:
    """Write `value` with torch.save, atomically; numbers of NumPy as Python's own.

    Raises:
        TypeError: it could not be read back; nothing is written.
    """
    write_atomically(content(value), path)


def content(value: Any) -> bytes:
    """Return the bytes of a file of `value`, which has been read back from them.

    Raises:
        TypeError: as `save_atomically`.
    """
    value = _plain(value)
    try:
        return _read_back(value)
    except Exception as error:  # whatever a pickler or an unpickler meets
        if ran_out(error):
            raise
        raise TypeError(
            "save must hold tensors, Python's numbers, words and containers of these alone, to be "
            f"read without running code; got {_misfit(value)}: make it such, or leave save out"
        ) from error


def _read_back(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    _load(buffer)
    return buffer.getvalue()


def _load(file: Path | BinaryIO) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _plain(value: Any) -> Any:
    if isinstance(value, AS_PLAIN):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if type(value) in (dict, collections.OrderedDict, collections.Counter):
        found = copy.copy(value)  # with the attributes that a state_dict has
        found.clear()
        found.update({_plain(key): _plain(part) for key, part in value.items()})
        return found
    return value


def _misfit(value: Any, place: str = "") -> str:
    """Name what cannot be read back, and where it is."""
    parts: Any = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list | tuple):
        parts = enumerate(value)
    for key, part in parts:
        try:
            _read_back(part)
        except Exception:
            return _misfit(part, f"{place}[{key!r}]" if place else str(key))
    return f"a {type(value).__name__} in {place}"


def path_of(save: Path | str | None, resume: bool) -> Path | None:
    """Return where to write, or refuse what cannot be written or would be lost."""
    if save is None:
        if resume:
            raise ValueError("save must be the file to resume from; got None")
        return None
    path = checks.file("save", save)
    if path.exists() and not resume:
        raise FileExistsError(
            f"save must be a new file, or be continued by resume=True; {path} holds an earlier run"
        )
    return path


def check_config(config: Config | None) -> None:
    """Check that a checkpoint with this in it can be read back: no type that is to be unpickled."""
    for key, value in (config or {}).items():
        if type(key) is not str or type(value) not in PLAIN:
            raise TypeError(
                f"config must map str to str, int, float, bool or None; got {key!r}: {value!r}, "
                f"a {type(value).__name__}"
            )


def read(path: Path, config: Config | None, run: Config | None = None) -> dict[str, Any]:
    """Read a checkpoint, and refuse one that belongs to another configuration or run.

    Raises:
        ValueError: it does, or the file is no checkpoint. OSError: it cannot be read.
    """
    try:
        state = _load(path)
    except OSError:
        raise
    except Exception as error:  # of whatever kind: an unpickler meets any bytes
        raise ValueError(
            f"{path} must be a checkpoint; it is another file, or damaged: {damage(path, error)}"
        ) from error
    if not isinstance(state, dict) or not state.keys() >= PARTS:
        raise ValueError(
            f"{path} must be a checkpoint of this version of jacfast; got another file of "
            "torch.save"
        )
    compare(str(path), state["config"] or {}, config or {})
    if run is not None:
        compare(str(path), {key: state["run"].get(key) for key in run}, run)
    return state
