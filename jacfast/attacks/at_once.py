"""The search for the nearest boundary on a GPU: all rows of a sample at once, in one fused op."""

from typing import NamedTuple

import torch
from torch import Tensor

from jacfast.attacks.options import Options
from jacfast.attacks.search import dual_norm, rows_at_once
from jacfast.attacks.walk import Boundary
from jacfast.calling import Call
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

    Args:
        options: of the attack. same: whether the classes are the same in every call.
    """

    def __init__(self, options: Options, same: bool) -> None:
        self.options, self.same = options, same
        self._fixed: _Fixed | None = None
        self._cotangents: tuple[Tensor, Tensor] | None = None

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
        if self._fixed is None:
            self._fixed = _Fixed(leaf, logits, labels, self.options.q)
        if self._cotangents is None or not self.same:
            self._cotangents = self._fixed.cotangents(origin)
        classes, vectors = self._cotangents
        blocks: list[Tensor] = []
        for part in vectors.split(rows_at_once(leaf)):
            blocks += pull_back_blocks(logits, leaf, part)
        z = logits.detach().gather(1, classes)
        find = self._by_step if self.options.q == 2 else self._by_norms
        return find(z, blocks, self._fixed), labels.shape[1]

    def _by_step(self, z: Tensor, blocks: list[Tensor], fixed: "_Fixed") -> Directed:
        """Find the nearest boundaries in the 2-norm."""
        rows = self.options.restrict(torch.cat([*blocks, fixed.none]))
        z = _in(rows.dtype, z)
        # a floor of one, so that r has a direction at the boundary as well
        r, _, distance = deepfool_step(z, rows.transpose(0, 1), fixed.last, floor=1.0)
        return Directed(r, distance, distance + 1)

    def _by_norms(self, z: Tensor, blocks: list[Tensor], fixed: "_Fixed") -> Directed:
        """Find the nearest boundaries in another norm: the op gets norms for rows of one entry."""
        rows = self.options.restrict(torch.cat(blocks) if len(blocks) > 1 else blocks[0])
        norms = fixed.norms
        norms[:-1].copy_(dual_norm(rows.flatten(0, 1), self.options.q).view(rows.shape[:2]))
        z = _in(norms.dtype, z)
        _, winner, distance = deepfool_step(z, norms.T[..., None], fixed.last, floor=0.0)
        if len(rows) == 1:
            w, norm = rows[0], norms[0]
        else:  # without a winner any
            w, norm = rows[winner, fixed.here], norms[winner, fixed.here]
        unit = Nearest(w, distance, norm, winner).direction(self.options.q)
        return Directed(unit, distance, None)


class _Fixed:
    """What does not change from iteration to iteration; the origin is the last of the classes.

    Args:
        leaf, logits: [n, ...] and [n, K], of an iteration. labels: [n, C]. q: of the norm.
    """

    def __init__(self, leaf: Tensor, logits: Tensor, labels: Tensor, q: float) -> None:
        self.labels = labels.sort(dim=1).values  # of equal distances the first wins
        samples, count = labels.shape
        self.towards = logits.new_zeros(count, *logits.shape)
        self.towards.scatter_(2, self.labels.T[..., None], 1.0)
        self.last = torch.full_like(labels[:, 0], count)  # the column of the origin
        if q == 2:  # the origin's own row, of differences from it
            self.none = leaf.new_zeros(1, samples, leaf[0].numel())
        else:  # the norms of the rows, and 0 of the origin's
            self.norms = leaf.new_zeros(count + 1, samples, dtype=accumulator(leaf.dtype))
            self.here = torch.arange(samples, device=leaf.device)

    def cotangents(self, origin: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classes [n, C + 1] and the cotangents ``e_label - e_origin`` [C, n, K]."""
        classes = torch.cat([self.labels, origin[:, None]], dim=1)
        away = origin.expand(len(self.towards), -1)[..., None]
        return classes, self.towards.scatter(2, away, -1.0)


def _in(dtype: torch.dtype, z: Tensor) -> Tensor:
    """Return logits [n, C + 1] of which differences from the last matter, in this dtype."""
    return z if z.dtype == dtype else (z - z[:, -1:]).to(dtype)
