"""The search for the nearest boundary on a GPU: all rows of a sample at once, in one fused op."""

from typing import NamedTuple

import torch
from torch import Tensor

from jacfast.attacks.options import Options
from jacfast.attacks.search import boundaries, dual_norm, rows_at_once
from jacfast.attacks.walk import Boundary
from jacfast.calling import Call
from jacfast.ops import Nearest, deepfool_step
from jacfast.ops.checks import accumulator
from jacfast.ops.deepfool_step import usable_distance
from jacfast.vjp import pull_back_blocks


class Stepped(NamedTuple):
    """The nearest boundaries as `deepfool_step` gives them, with a floor of one."""

    r: Tensor  # [n, D], distance + 1 long, so that it has a direction at the boundary as well
    distance: Tensor  # [n]

    def along(self, length: Tensor, q: float) -> Tensor:
        """Return the steps of these lengths [n, D]; anything where there is no boundary."""
        return (self.r * (length / (self.distance + 1))[:, None]).to(self.r.dtype)


class AtOnce:
    """Compares all candidates of all samples, running or not, in operations of fixed shapes.

    Args:
        options: of the attack. same: whether the classes are the same in every call.
    """

    def __init__(self, options: Options, same: bool) -> None:
        self.options, self.same = options, same
        self._heads: tuple[Tensor, ...] | None = None

    def rows(self) -> "AtOnce":
        """Return the search of other samples."""
        return AtOnce(self.options, self.same)

    def nearest(
        self,
        model: Call,
        leaf: Tensor,
        logits: Tensor,
        origin: Tensor,
        labels: Tensor,
        running: Tensor,
    ) -> tuple[Boundary, int]:
        """Find the nearest boundaries, as `Search.nearest`."""
        if self._heads is None or not self.same:
            first, none = torch.zeros_like(origin), leaf.new_zeros(1, len(leaf), leaf[0].numel())
            labels = labels.sort(dim=1).values  # of equal distances the first wins
            classes = torch.cat([origin[:, None], labels], dim=1)
            self._heads = classes, boundaries(logits, origin, labels), first, none
        classes, vectors, first, none = self._heads
        blocks = [none]  # the origin's own row, of differences from it
        for part in vectors.split(rows_at_once(leaf)):
            blocks += pull_back_blocks(logits, leaf, part)
        rows = self.options.restrict(torch.cat(blocks))
        z = logits.detach().gather(1, classes)
        f = (z - z[:, :1]).to(rows.dtype)
        if self.options.q == 2:
            r, _, distance = deepfool_step(f, rows.transpose(0, 1), first, floor=1.0)
            return Stepped(r, distance), labels.shape[1]
        return _nearest(f.T[1:], rows[1:], self.options.q), labels.shape[1]


def _nearest(f: Tensor, rows: Tensor, q: float) -> Nearest:
    """Return the nearest boundary of each sample for f [C, n] and rows [C, n, D]."""
    norm = dual_norm(rows.flatten(0, 1), q).view_as(f)
    distance = usable_distance(f.to(accumulator(f.dtype)), norm)
    best, column = distance.min(dim=0, keepdim=True)
    w = rows.gather(0, column[..., None].expand(1, *rows.shape[1:]))[0]
    return Nearest(w, best[0], norm.gather(0, column)[0].to(best.dtype), column[0])
