"""The state of a run in one file: written in one move, read without unpickling code."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jacfast.files import write_atomically

Config = dict[str, str | int | float]


def save_atomically(value: Any, path: Path) -> None:
    """Write `value` with torch.save, atomically."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_atomically(buffer.getvalue(), path)


def write(
    path: Path,
    config: Config | None,
    phase: str,
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    order: torch.Generator,
) -> None:
    """Save everything that the rest of phase `phase` depends on after `epoch` epochs."""
    state = {
        "config": config,
        "phase": phase,
        "epoch": epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "order": order.get_state(),
        "random": torch.get_rng_state(),
    }
    save_atomically(state, path)


def read(path: Path, config: Config | None) -> dict[str, Any]:
    """Read a checkpoint, and refuse one that belongs to another configuration."""
    state = torch.load(path, weights_only=True)
    then, now = state["config"] or {}, config or {}
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            raise ValueError(
                f"{path} belongs to another run: {key} was {then.get(key)!r} and is now "
                f"{now.get(key)!r}; use the same options, or another folder"
            )
    return state


def restore(
    path: Path,
    config: Config | None,
    phase: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    order: torch.Generator,
) -> int:
    """Bring everything back to the checkpoint; return the epochs done, 0 if of another phase."""
    state = read(path, config)
    if state["phase"] != phase:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    order.set_state(state["order"])
    torch.set_rng_state(state["random"])
    return state["epoch"]
