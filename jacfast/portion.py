"""Which samples of a larger batch are at hand: those of one process of several.

What is drawn for a sample (projections, dropout) is then drawn for the whole batch, by every
process alike, and each takes its samples' part: the draw depends on the sample, not on the process.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel


@dataclasses.dataclass(frozen=True)
class Portion:
    """Samples `index` [n] int64, ascending, of `total`.

    Attributes:
        alike: the context in which all processes draw the same.
    """

    index: Tensor
    total: int
    alike: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def other(self, index: Tensor, total: int) -> "Portion":
        """Return a portion of another batch that is made of this one, by the same processes."""
        return dataclasses.replace(self, index=index, total=total)

    def weight(self, terms: int, whole: int) -> float:
        """Return what a mean over `terms` must be multiplied with to count as of `whole` terms.

        In a mean over processes in which each counts by its samples.
        """
        return terms / whole * self.total / len(self.index)

    def drawn(self, draw: Callable[[int], Tensor | None], samples: int) -> Tensor | None:
        """Return the part of `samples` samples in what is drawn for all."""
        if samples > len(self.index):  # other samples than these
            return draw(samples)
        with self.alike():
            whole = draw(self.total)
        return None if whole is None else whole[self.index[:samples].to(whole.device)]


@dataclasses.dataclass(frozen=True)
class Share:
    """Part `rank` of `size` parts of as many samples each.

    Attributes:
        dealt: it has every `size`-th sample of the batch, and not consecutive ones.
    """

    rank: int
    size: int
    dealt: bool = False

    def drawn(self, draw: Callable[[int], Tensor | None], samples: int) -> Tensor | None:
        """Return the part of `samples` samples in what is drawn for all."""
        whole = draw(samples * self.size)
        if whole is None:
            return None
        return whole[self.rank :: self.size] if self.dealt else whole.chunk(self.size)[self.rank]


_here: contextvars.ContextVar[Portion | Share | None] = contextvars.ContextVar(
    "portion", default=None
)


def portion() -> Portion | None:
    """Return the portion that is at hand, if it is known; None: the samples are the whole batch."""
    here = _here.get()
    return here if isinstance(here, Portion) else None


def at_hand() -> Portion | Share | None:
    """Return of which samples what is at hand is; inside DistributedDataParallel it is a share."""
    here = _here.get()
    if here is not None or not (distributed.is_available() and distributed.is_initialized()):
        return here
    parallel = DistributedDataParallel._get_active_ddp_module()
    if parallel is None:
        return None
    group = parallel.process_group
    return Share(distributed.get_rank(group), distributed.get_world_size(group))


def drawn(draw: Callable[[int], Tensor | None], samples: int) -> Tensor | None:
    """Return what `draw`, given a number of samples, draws for those that are at hand."""
    if torch.compiler.is_compiling():  # dynamo cannot look at what is at hand
        return draw(samples)
    here = at_hand()
    return draw(samples) if here is None else here.drawn(draw, samples)


@contextlib.contextmanager
def within(here: Portion | Share | None) -> Iterator[None]:
    """Let the samples of what is called inside be this part of the batch."""
    token = _here.set(here)
    try:
        yield
    finally:
        _here.reset(token)
