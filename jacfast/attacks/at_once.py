"""The search for the nearest boundary on a GPU: all rows of a sample at once, in one fused op."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from jacfast.attacks.options import Options
from jacfast.attacks.search import dual_norm, rows_at_once
from jacfast.attacks.walk import Boundary
from jacfast.calling import Call
from jacfast.cotangents import boundaries, of_classes
from jacfast.ops import Nearest, deepfool_step
from jacfast.ops.checks import accumulator
from jacfast.vjp import pull_back_blocks


class Directed(NamedTuple):
    """The nearest boundaries as a direction of any length towards each."""

    direction: Tensor  # [n, D]
    distance: Tensor  # [n]; infinite where there is no boundary
    length: Tensor | None  # [n], of the direction, in the norm that is kept small; or one

    def add_to(self, r: Tensor, length: Tensor, q: float) -> Tensor:
        """Return r [n, ...] and steps of these lengths [n] towards it; anything without one."""
        factor = length if self.length is None else length / self.length
        factor = factor.view(-1, *[1] * (r.dim() - 1))
        return torch.addcmul(r, self.direction.view_as(r), factor).to(r.dtype)


class AtOnce:
    """Compares all candidates of all samples, running or not, in operations of fixed shapes.

    What stays is made here, once for a batch.

    Args:
        options: of the attack. x, logits: of the samples, [N, ...] and [N, K].
        classes: [N, C + 1], in ascending order but for the last, the origin.
        same: whether the origin is the same in every call.
    """

    def __init__(
        self, options: Options, x: Tensor, logits: Tensor, classes: Tensor, same: bool
    ) -> None:
        self.options, self.same = options, same
        samples, count = len(classes), classes.shape[1] - 1
        labels, origin = classes[:, :-1], classes[:, -1]
        # [C, N, K]; without the origin, if that changes
        self.vectors = boundaries(logits, labels, origin) if same else of_classes(logits, labels)
        self.last = torch.full_like(origin, count)  # the column of the origin
        self.here = torch.arange(samples, device=x.device)
        self.none = x.new_zeros(1, 1, 1)  # an entry of the origin's own row, of differences from it
        self.norms = x.new_zeros(count + 1, samples, dtype=accumulator(x.dtype))

    def rows(self, index: Tensor) -> "AtOnce":
        """Return the search of some samples."""
        part = copy.copy(self)
        part.vectors = self.vectors[:, index]
        part.last, part.here = self.last[: len(index)], self.here[: len(index)]
        part.norms = self.norms[:, : len(index)]
        return part

    def nearest(
        self, model: Call, leaf: Tensor, logits: Tensor, classes: Tensor, running: Tensor
    ) -> tuple[Boundary, int]:
        """Find the nearest boundaries, as `Search.nearest`."""
        vectors = self.vectors
        if not self.same:
            away = classes[:, -1].expand(len(vectors), -1)[..., None]
            vectors = vectors.scatter(2, away, -1.0)
        blocks: list[Tensor] = []
        for part in vectors.split(rows_at_once(leaf)):
            blocks += pull_back_blocks(logits, leaf, part)
        z = logits.detach().gather(1, classes)
        return (self._by_step if self.options.q == 2 else self._by_norms)(z, blocks), len(vectors)

    def _by_step(self, z: Tensor, blocks: list[Tensor]) -> Directed:
        """Find the nearest boundaries in the 2-norm."""
        rows = self.options.restrict(torch.cat([*blocks, self.none.expand_as(blocks[0][:1])]))
        z = _in(rows.dtype, z)
        # a floor of one, so that r has a direction at the boundary as well
        r, _, distance = deepfool_step(z, rows.transpose(0, 1), self.last, floor=1.0)
        return Directed(r, distance, distance + 1)

    def _by_norms(self, z: Tensor, blocks: list[Tensor]) -> Directed:
        """Find the nearest boundaries in another norm: the op gets norms for rows of one entry."""
        rows = self.options.restrict(torch.cat(blocks) if len(blocks) > 1 else blocks[0])
        norms = self.norms
        norms[:-1].copy_(dual_norm(rows.flatten(0, 1), self.options.q).view(rows.shape[:2]))
        z = _in(norms.dtype, z)
        _, winner, distance = deepfool_step(z, norms.T[..., None], self.last, floor=0.0)
        if len(rows) == 1:
            w, norm = rows[0], norms[0]
        else:  # without a winner any
            w, norm = rows[winner, self.here], norms[winner, self.here]
        unit = Nearest(w, distance, norm, winner).direction(self.options.q)
        return Directed(unit, distance, None)


def _in(dtype: torch.dtype, z: Tensor) -> Tensor:
    """Return logits [n, C + 1] of which differences from the last matter, in this dtype."""
    return z if z.dtype == dtype else (z - z[:, -1:]).to(dtype)
