"""Which samples of a larger batch are at hand: those of one process of several.

What is drawn for a sample (projections, dropout) is then drawn for the whole batch, by every
process alike, and each takes its samples' part: the draw depends on the sample, not on the process.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Portion:
    """Samples `index` [n] int64, ascending, of `total`."""

    index: Tensor
    total: int

    def weight(self, terms: int, whole: int) -> float:
        """Return what a mean over `terms` must be multiplied with to count as of `whole` terms.

        In a mean over processes in which each counts by its samples.
        """
        return terms / whole * self.total / len(self.index)


_here: contextvars.ContextVar[Portion | None] = contextvars.ContextVar("portion", default=None)


def portion() -> Portion | None:
    """Return the portion that is at hand; None: the samples are the whole batch."""
    return _here.get()


@contextlib.contextmanager
def within(here: Portion | None) -> Iterator[None]:
    """Let the samples of what is called inside be this portion."""
    token = _here.set(here)
    try:
        yield
    finally:
        _here.reset(token)
