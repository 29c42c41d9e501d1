"""Errors for lack of memory: which they are, and what would need less."""

import contextlib
from collections.abc import Iterator

import torch


def ran_out(error: BaseException) -> bool:
    """Say whether memory was lacking; PyTorch's error on a CPU is known by its words alone."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


@contextlib.contextmanager
def advise(words: str) -> Iterator[None]:
    """Add `words` to an error for lack of memory, which passes on as it is."""
    try:
        yield
    except Exception as error:
        if ran_out(error):
            error.add_note(words)
        raise
