"""What a model draws, once more, or later: its dropout masks are those of one plain call."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor


class Draws:
    """Random numbers that a second pass may draw once more: those of the CPU and of `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        captured = device.type == "cuda" and not readable(device)
        self._before = None if captured else rng_states(device)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw inside the context from where this was made, outside it from where it was left."""
        if self._before is None:
            yield
            return
        now = rng_states(self._device)
        self._set(self._before)
        try:
            yield
        finally:
            self._set(now)

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, self._device)


def rng_states(device: torch.device) -> list[Tensor]:
    """Return the states of the default generators of the CPU and of `device`."""
    gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *gpu]


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
