"""Memory: errors for lack of it, what would need less, and what is freed kept at hand."""

import contextlib
import functools
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


@functools.cache
def keep() -> None:
    """Let glibc keep up to 64 MB that are freed for the tensors to come.

    It gives back to the system what is free at the end of the heap beyond twice the largest block
    that it has mapped and seen freed, of at most 32 MB. In a process without a large tensor so far
    that is less than a layer: each is mapped anew, and cleared page by page, which can take as long
    as the layer itself (benchmarks/README.md, 'Residual networks'). So one such block is freed
    here; its pages are never touched. Another allocator does not mind.
    """
    torch.empty(31 << 20, dtype=torch.uint8, device="cpu")
