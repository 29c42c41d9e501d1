"""What a search for the shortest perturbation knows: one lane or several for each sample."""

import dataclasses
import math
from typing import Self

import torch
from torch import Tensor

CUTS = 3  # that a lane remembers, the last ones
OVERSHOOT = (1e-4, 0.02, 0.3)  # the least, the first, the largest
DAMP = (0.05, 0.7, 0.9)  # likewise, of the part of the way that is gone from the best point
LESS, MORE = 0.8, 1.1  # times that part, after a look that did not or did better
GAIN = 1e-3  # relative; a lane that gains less grows stale


@dataclasses.dataclass
class Lanes:
    """n points on their way to the boundary, with r = point - x, all in one precision.

    A cut is a half-space ``w . r >= c``: on its other side the class is not as wanted, says the
    network linearised at a point where it was looked at.
    """

    sample: Tensor  # [n] int64, whose lane it is
    label: Tensor  # [n] int64, the class that it heads for while nothing is found
    w: Tensor  # [n, CUTS, D], normals of length 1, or 0 where there was no gradient
    c: Tensor  # [n, CUTS] float64, or -inf where there is no cut
    best: Tensor  # [n, D], the shortest r that was as wanted; before there is one, the last
    size: Tensor  # [n] float64, its length, or inf
    overshoot: Tensor  # [n] float64
    mark: Tensor  # [n] float64, the length from which the next gain counts
    stale: Tensor  # [n] int64, looks without a gain
    damp: Tensor  # [n] float64, the part of the way from the best point that is gone

    @classmethod
    def begin(cls, sample: Tensor, label: Tensor, like: Tensor) -> Self:
        """Return lanes that know nothing; `like` [.., D] gives size, precision and device of r."""
        n, size = len(sample), torch.full((len(sample),), math.inf, device=like.device).double()
        return cls(
            sample=sample,
            label=label,
            w=like.new_zeros(n, CUTS, like.shape[1]),
            c=size[:, None].repeat(1, CUTS).neg(),
            best=like.new_zeros(n, like.shape[1]),
            size=size,
            overshoot=torch.full_like(size, OVERSHOOT[1]),
            mark=size.clone(),
            stale=torch.zeros_like(sample),
            damp=torch.full_like(size, DAMP[1]),
        )

    def __getitem__(self, here: Tensor) -> "Lanes":
        return Lanes(**{name: value[here] for name, value in vars(self).items()})

    def __setitem__(self, here: Tensor, some: "Lanes") -> None:
        for name, value in vars(some).items():
            getattr(self, name)[here] = value

    @property
    def found(self) -> Tensor:
        """Say which lanes have met a point that is as wanted [n]."""
        return self.size.isfinite()

    @property
    def start(self) -> Tensor:
        """Where a step begins [n, D]: at x, or, of a lane that is lost, at its last point.

        The shortest r can go round in circles: each cut has it leave the others' side, and three
        are remembered. From its last point a lane gets on, as DeepFool does. It is lost where the
        overshoot is at its largest, nothing is found, and there is a cut at that point.
        """
        lost = (self.overshoot >= OVERSHOOT[2]) & ~self.found & self.c[:, -1].isfinite()
        return torch.where(lost[:, None], self.best, 0)

    def cut(self, r: Tensor, value: Tensor, g: Tensor) -> None:
        """Add ``value + g . (q - r) >= 0``, by the gradient g [n, D] at r, where there is one.

        Divided by ``||g||_2``: the scale of the logits plays no part.
        """
        size = torch.linalg.vector_norm(g, dim=1, dtype=torch.float64)
        fine = (size > 0) & size.isfinite() & value.isfinite()
        size = torch.where(fine, size, 1)
        w = torch.where(fine[:, None], g / size[:, None], 0)
        c = torch.where(fine, (w * r).sum(dim=1) - value / size, -math.inf)
        self.w = torch.cat([self.w[:, 1:], w.to(self.w.dtype)[:, None]], dim=1)
        self.c = torch.cat([self.c[:, 1:], c[:, None]], dim=1)

    def look(self, r: Tensor, size: Tensor, wanted: Tensor) -> None:
        """Note that the points r [n, D], of these lengths, were or were not as wanted [n]."""
        better = wanted & (size < self.size)
        part = torch.where(better, self.damp * MORE, self.damp * LESS)
        self.damp = torch.where(self.found, part.clamp(DAMP[0], DAMP[2]), self.damp)
        self.best = torch.where((better | ~self.found)[:, None], r, self.best)
        self.size = torch.where(better, size, self.size)
        least, _, most = OVERSHOOT
        moved = torch.where(wanted, self.overshoot / 2, self.overshoot * 2)
        self.overshoot = moved.clamp(least, most)
        gain = self.size < (1 - GAIN) * self.mark
        self.stale = torch.where(gain | ~self.found, 0, self.stale + 1)
        self.mark = torch.where(gain, self.size, self.mark)

    def drop(self) -> None:
        """Forget the cuts that exclude the best point: there the boundary bends the other way."""
        along = torch.einsum("nmd,nd->nm", self.w, self.best).double()
        wrong = self.found[:, None] & (along < self.c - 1e-6 * self.c.abs())
        self.c = torch.where(wrong, -math.inf, self.c)

    def aim(self, beyond: Tensor) -> Tensor:
        """Return where to look next [n, D], by an r a little beyond the cuts.

        From the best point, if there is one, only a part of the way is gone.
        """
        part = self.damp[:, None].to(beyond.dtype)
        r = torch.where(self.found[:, None], torch.lerp(self.best, beyond, part), beyond)
        fine = r.isfinite().all(dim=1, keepdim=True)
        return torch.where(fine, r, self.best)
