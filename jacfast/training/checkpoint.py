"""The state of a run in one file: written in one move, read without unpickling code."""

import copy
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from jacfast.calling import in_eval_mode
from jacfast.files import damage, write_atomically
from jacfast.models.loading import check_state
from jacfast.runs import check_behaviour

Config = dict[str, str | int | float | None]
State = dict[str, Any]
PLAIN = (str, int, float, bool, type(None))
PARTS = {"config", "epoch", "model", "optimizer", "order", "random"}


def save_atomically(value: Any, path: Path) -> None:
    """Write `value` with torch.save, atomically."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_atomically(buffer.getvalue(), path)


def path_of(save: Path | str | None, resume: bool) -> Path | None:
    """Return where to write, or refuse what cannot be written or would be lost."""
    if save is None:
        if resume:
            raise ValueError("save must be the file to resume from; got None")
        return None
    path = Path(save)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"save must be a file in a folder that exists; got {path}")
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


def write(path: Path, config: Config | None, run: Config, epoch: int, state: State) -> None:
    """Save everything that the rest of `run` depends on after `epoch` epochs."""
    save_atomically({"config": config, "run": run, "epoch": epoch, **state}, path)


def state_of(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generators: list[torch.Generator],
    probe: Tensor | None,
    scheduler: LRScheduler | None = None,
) -> State:
    """Return what changes in training, and what the model does at the inputs `probe`.

    The generators are that of the order, the CPU's global one, those of GPUs, those of a loader.
    """
    order, random, *gpus = [generator.get_state() for generator in generators]
    return {
        "model": model.state_dict(),
        "outputs": _outputs(model, probe),
        "optimizer": optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "order": order,
        "random": random,
        "gpus": gpus,
    }


@torch.no_grad()
def _outputs(model: nn.Module, probe: Tensor | None) -> Tensor | None:
    """Return the outputs [N, ...] in eval mode; None where the model is not called as model(x)."""
    if probe is None:
        return None
    with in_eval_mode(model.modules()):
        try:
            found = model(probe.clone())
        except Exception:  # the loss calls it in another way, whatever that is
            return None
    rows = isinstance(found, Tensor) and found.is_floating_point() and found.dim() > 0
    return found.reshape(len(found), -1).cpu() if rows else None


def read(path: Path, config: Config | None, run: Config | None = None) -> dict[str, Any]:
    """Read a checkpoint, and refuse one that belongs to another configuration or run.

    Raises:
        ValueError: it does, or the file is no checkpoint. OSError: it cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of whatever kind: an unpickler meets any bytes
        raise ValueError(
            f"{path} must be a checkpoint; it is another file, or damaged: {damage(path, error)}"
        ) from error
    if not isinstance(state, dict) or not state.keys() >= PARTS:
        raise ValueError(f"{path} must be a checkpoint of jacfast; got another file of torch.save")
    compare(path, state["config"] or {}, config or {})
    if run is not None:
        then = state.get("run") or {"name": state.get("phase")}  # before there was "run"
        both = then.keys() & run.keys()
        compare(path, {key: then[key] for key in both}, {key: run[key] for key in both})
    return state


def compare(path: Path, then: Config, now: Config) -> None:
    """Refuse the checkpoint of another run."""
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            raise ValueError(
                f"{path} belongs to another run: {key} was {then.get(key)!r} and is now "
                f"{now.get(key)!r}; use the same options, or another folder"
            )


def restore(
    path: Path,
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generators: list[torch.Generator],
    probe: Tensor | None,
    scheduler: LRScheduler | None = None,
) -> None:
    """Bring everything back to what was read from `path`: all of it, or nothing.

    Raises:
        ValueError: it is of another network, or of one that did something else at `probe`.
    """
    check_state(model, state["model"], f"checkpoint {path}")
    before = copy.deepcopy(model.state_dict())
    try:
        model.load_state_dict(state["model"])
        then, now = state.get("outputs"), _outputs(model, probe)
        if then is not None and now is not None:
            check_behaviour(str(path), {"logits": then}, {"logits": now})
        optimizer.load_state_dict(state["optimizer"])  # where it refuses, it changes nothing
    except ValueError:
        model.load_state_dict(before)
        raise
    if scheduler is not None and state.get("scheduler") is not None:
        scheduler.load_state_dict(state["scheduler"])
    drawn = [state["order"], state["random"], *state.get("gpus", [])]
    for generator, then in zip(generators, drawn, strict=False):  # GPUs may be others than then
        generator.set_state(then)
