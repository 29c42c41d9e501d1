"""A network that counts its passes, by whomever and however many at once it is called."""

import torch
from torch import Tensor, nn

COUNTS: list[int] = []  # of every network


def _count(g: Tensor, number: int) -> Tensor:
    COUNTS[number] += len(g)
    return g.new_empty(())


def _of_rows(info, dims: tuple, g: Tensor, number: int) -> tuple[Tensor, None]:
    """Count a backward pass of several rows, of which a hook sees one."""
    COUNTS[number] += info.batch_size * g.movedim(dims[0], 0).shape[1]
    return g.new_empty(()), None


# An op and its rule for torch.func.vmap; for is_grads_batched, which knows none, it is run by row.
LIBRARY = torch.library.Library("jacfast_benchmarks", "DEF")
LIBRARY.define("count(Tensor g, int number) -> Tensor")
LIBRARY.impl("count", _count, "CompositeExplicitAutograd")
torch.library.register_vmap("jacfast_benchmarks::count", _of_rows, lib=LIBRARY)


class Counted(nn.Module):
    """A network that counts the samples that go forward and backward through it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.number = inner, len(COUNTS)
        COUNTS.append(0)

    @property
    def passes(self) -> int:
        return COUNTS[self.number]

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        COUNTS[self.number] += len(x)
        if z.grad_fn is not None:  # of its node: with a hook of z rows are pulled back one by one
            z.grad_fn.register_prehook(self._back)
        return z

    def _back(self, gradients: tuple[Tensor, ...]) -> None:
        torch.ops.jacfast_benchmarks.count(gradients[0], self.number)
