"""What an optimizer and its scheduler were told: a run goes on with the same.

To load their states from a checkpoint brings the options back as well, so that others, given to the
call that goes on, would be without effect.
"""

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jacfast.runs import compare
from jacfast.training.checkpoint import PLAIN, Config, State

# of a group: its parameters, and in which code a step runs, which may be another one
LEFT_OUT = {"params", "param_names", "foreach", "fused", "capturable", "differentiable"}


def settings(groups: list[dict[str, Any]], scheduler: Mapping[str, Any] | None) -> Config:
    """Return the options in an optimizer's groups of parameters, and in a scheduler's state."""
    found: Config = {}
    for number, group in enumerate(groups):
        for name, value in group.items():
            if name not in LEFT_OUT:
                found[f"optimizer, group {number}: {name}"] = _plain(value)
    for name, value in (scheduler or {}).items():
        found[f"scheduler: {name}"] = _plain(value)
    return found


def begun_with(path: Path, told: Config, state: State) -> Config:
    """Return what the run of a checkpoint began with, of what this call was told.

    What stands in the checkpoint by now is as good: it is told by an optimizer that goes on in the
    same process, whose scheduler has moved it.

    Raises:
        ValueError: the call was told something else, which would be without effect.
    """
    then = state["run"]
    now = settings(state["optimizer"]["param_groups"], state["scheduler"])
    begun = {name: then[name] for name in told if name in then}
    moved = {name for name in begun if name in now and told[name] == now[name]}
    now_told = {name: begun[name] if name in moved else told[name] for name in begun}
    compare(str(path), begun, now_told)
    return begun


def _plain(value: Any) -> str | int | float | None:
    known = _known(value)
    return known if type(known) in PLAIN else json.dumps(known, sort_keys=True)


def _known(value: Any) -> Any:
    """Return numbers, words and containers of these; functions have none to compare."""
    if hasattr(value, "tolist"):  # a tensor, an array or a number of NumPy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _known(v) for k, v in value.items()}
    if isinstance(value, list | tuple | deque):
        return [_known(one) for one in value]
    return value if type(value) in PLAIN else None
