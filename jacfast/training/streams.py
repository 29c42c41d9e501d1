"""What the processes of a training draw alike, and what each draws by itself."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class Streams:
    """Two streams of random numbers in the place of the global generators' one.

    What is drawn for the samples of the whole batch is drawn by all processes alike (`alike`), from
    where the generators are at the beginning of a step, as one process would draw it. All else is
    drawn by each process from a seed of its own, so that it is independent of what the others draw;
    where and when follows from the generators and the step, so a resumed run draws the same.

    Whoever sets the generators back, for a second pass or in a checkpoint, sees its own stream
    alone. So it says where the common one is: a place in it from which something was drawn alike is
    a place in the other, too.
    """

    def __init__(self, generators: Sequence[torch.Generator], rank: int) -> None:
        self._generators, self._rank = generators, rank
        self._common: list[Tensor] = []
        self._begun: dict[bytes, list[Tensor]] = {}  # by the place in the own stream

    @contextlib.contextmanager
    def apart(self, step: int) -> Iterator[None]:
        """Let each process draw by itself; afterwards the generators are where all are."""
        self._common, self._begun = self._states(), {}
        words = f"step {step} of process {self._rank}".encode()
        seed = int.from_bytes(_digest(self._common, words), "little")
        for generator in self._generators:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            self._put(self._common)

    @contextlib.contextmanager
    def alike(self) -> Iterator[None]:
        """Let all processes draw the same, inside `apart`."""
        own = self._states()
        place = _digest(own)
        again = place in self._begun
        self._put(self._begun.setdefault(place, self._common))
        try:
            yield
            if not again:
                self._common = self._states()
        finally:
            self._put(own)
            for generator in self._generators:  # so that what comes next has a place of its own
                torch.empty((), device=generator.device).uniform_(generator=generator)

    def _states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _put(self, states: list[Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)


def _digest(states: list[Tensor], words: bytes = b"") -> bytes:
    found = hashlib.blake2b(words, digest_size=7)
    for state in states:
        found.update(state.numpy().tobytes())
    return found.digest()
