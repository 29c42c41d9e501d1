"""What a model draws, once more: a second pass has the dropout masks of the first one."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


class Draws:
    """Random numbers that a second pass may draw once more: those of the CPU and of `device`."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        captured = self._gpu is not None and torch.cuda.is_current_stream_capturing()
        self._before = None if captured else self._now()

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw inside the context from where this was made, outside it from where it was left."""
        if self._before is None:
            yield
            return
        now = self._now()
        self._set(self._before)
        try:
            yield
        finally:
            self._set(now)

    def _now(self) -> list[Tensor]:
        gpu = [] if self._gpu is None else [torch.cuda.get_rng_state(self._gpu)]
        return [torch.get_rng_state(), *gpu]

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._gpu is not None:
            torch.cuda.set_rng_state(states[1], self._gpu)
