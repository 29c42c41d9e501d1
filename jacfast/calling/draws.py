"""What a model draws, once more, or later: its dropout masks are those of one plain call."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from jacfast.calling.sources import Sources, of_process, readable


class Draws:
    """Random numbers that a second pass may draw once more.

    Those of PyTorch on the CPU and on `device`, and those of Python and NumPy that all share.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        captured = device.type == "cuda" and not readable(device)
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

    def _now(self) -> tuple[list[Tensor], Sources]:
        return rng_states(self._device), Sources(of_process())

    def _set(self, states: tuple[list[Tensor], Sources]) -> None:
        own, others = states
        torch.set_rng_state(own[0])
        for state in own[1:]:
            torch.cuda.set_rng_state(state, self._device)
        others.put()


def rng_states(device: torch.device) -> list[Tensor]:
    """Return the states of the default generators of the CPU and of `device`."""
    gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *gpu]


def beside(device: torch.device) -> torch.Generator:
    """Return a generator seeded by the state of a `readable` device's own, which draws nothing.

    For what must be known before the model draws, and must not change what it draws.
    """
    on_gpu = device.type == "cuda"
    state = torch.cuda.get_rng_state(device) if on_gpu else torch.get_rng_state()
    digest = hashlib.blake2b(state.numpy().tobytes(), digest_size=7).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))
