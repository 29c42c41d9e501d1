"""Let a recording leave nothing behind: the model and all random numbers are as they were."""

import contextlib
import random
import sys
from collections.abc import Iterator

import torch
from torch import nn

from jacfast.calling import Draws, State
from jacfast.step.traced.refuse import Refused


@contextlib.contextmanager
def leaving_nothing(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Let the model and all random numbers be as they were after the context."""
    state, draws, cached = State(model), Draws(device), torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # it holds casts of weights, which no graph has made
    try:
        with state.again(), draws.again(), _python_numbers():
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)


@contextlib.contextmanager
def _python_numbers() -> Iterator[None]:
    """Refuse what draws from Python or NumPy, and put their generators back."""
    numpy = sys.modules.get("numpy")
    before = random.getstate()
    of_numpy = None if numpy is None else numpy.random.get_state(legacy=False)
    moved = False
    try:
        yield
    finally:
        if random.getstate() != before:
            random.setstate(before)
            moved = True
        if numpy is not None and str(numpy.random.get_state(legacy=False)) != str(of_numpy):
            numpy.random.set_state(of_numpy)
            moved = True
    if moved:
        raise Refused("random numbers of Python or NumPy")
