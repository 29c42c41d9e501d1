"""What a model draws, once more, or later: its dropout masks are those of one plain call."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor


class Draws:
    """Random numbers that a second pass may draw once more: those of the CPU and of `device`."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        captured = self._gpu is not None and not readable(self._gpu)
        self._next = None if captured else self._now()

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw inside the context from where this was made, outside it from where it was left.

        A further such context, for a further part of the batch, goes on where the last one ended.
        """
        if self._next is None:
            yield
            return
        now = self._now()
        try:
            self._set(self._next)
            yield
        finally:
            self._next = self._now()
            self._set(now)

    def _now(self) -> list[Tensor]:
        gpu = [] if self._gpu is None else [torch.cuda.get_rng_state(self._gpu)]
        return [torch.get_rng_state(), *gpu]

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._gpu is not None:
            torch.cuda.set_rng_state(states[1], self._gpu)


def readable(device: torch.device) -> bool:
    """Say whether a device's generator can be read: not while a CUDA graph is recorded."""
    if device.type == "cuda":
        return not torch.cuda.is_current_stream_capturing()
    return device.type == "cpu"


def beside(device: torch.device) -> torch.Generator:
    """Return a generator seeded by the state of a `readable` device's own, which draws nothing.

    For what must be known before the model draws, and must not change what it draws.
    """
    on_gpu = device.type == "cuda"
    state = torch.cuda.get_rng_state(device) if on_gpu else torch.get_rng_state()
    digest = hashlib.blake2b(state.numpy().tobytes(), digest_size=7).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))
