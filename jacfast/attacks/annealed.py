"""What DDN and FMN share: points on a sphere around x whose radius follows what is met there."""

import dataclasses
import math

import torch
from torch import Tensor

from jacfast.attacks.box import Box, Clip, box_of, words
from jacfast.attacks.descent import Nearest
from jacfast.attacks.gradient import finite_rows, forward
from jacfast.attacks.losses import Criterion
from jacfast.attacks.norms import lengths
from jacfast.calling import Call
from jacfast.ops.checks import accumulator


def cosine(first: float, last: float, step: int, steps: int) -> float:
    """Return a value that goes from `first` to nearly `last`, as a half period of the cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2


def finite_box(clip: Clip, x: Tensor, why: str = "steps are measured in its width") -> Box:
    """Return a box that is finite, as an attack needs it, and says why; check x by it."""
    box = box_of(clip, x)
    if not box.bounded:
        raise ValueError(f"clip must be finite, (low, high): {why}; got {words(clip)}")
    box.check(x)
    return box


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is at the points of a batch."""

    wanted: Tensor  # [N] bool
    size: Tensor  # [N] float64, ||r||
    value: Tensor  # [N] float64, of the loss
    g: Tensor  # [N, D], its gradient, in the precision of r


class Samples:
    """Samples x [N, ...], their perturbations r [N, D], and the shortest found of each.

    Lost gradients are counted in `lost`.
    """

    def __init__(
        self, model: Call, x: Tensor, wanted: Criterion, p: float, box: Box, lost: Tensor
    ) -> None:
        self.model, self.x, self.wanted, self.p, self.box = model, x, wanted, p, box
        self.nearest, self.lost = Nearest(x, wanted), lost
        self.wide = x.to(accumulator(x.dtype))
        self.r = torch.zeros_like(self.wide).flatten(1)
        farthest = torch.maximum(self.wide - box.low, box.high - self.wide)
        self.most = lengths(farthest, p).double()

    def look(self, loss: str) -> Seen:
        """Return what is at x + r; keep it where it is the shortest that is as wanted."""
        point = self.box.clamp((self.wide + self.r.view_as(self.x)).to(self.x.dtype))
        leaf, logits = forward(self.model, point)
        met, size = self.wanted.met(logits), lengths(self.r, self.p).double()
        everyone = torch.arange(len(self.x), device=self.x.device)
        self.nearest.offer(everyone, point, size, met)
        v = self.wanted.cotangent(loss, logits)
        g = finite_rows(logits, leaf, v[None], self.lost)[0].to(self.r)
        return Seen(met, size, self.wanted.value(loss, logits), g)

    def move(self, r: Tensor, seen: Seen, levels: int | None = None) -> None:
        """Go to r [N, D], clipped into the box and to levels; not where there is no gradient."""
        point = self.box.clamp(self.wide + r.view_as(self.x))
        if levels is not None:
            point = self.box.rounded(point, levels)
        moving = (seen.g != 0).any(dim=1, keepdim=True)
        self.r = torch.where(moving, (point - self.wide).flatten(1), self.r)


def scaled(r: Tensor, size: Tensor) -> Tensor:
    """Return r [N, D] at these lengths [N] in the 2-norm; 0 where r is 0."""
    now = lengths(r).double()
    factor = size / torch.where(now > 0, now, 1)
    return r * factor[:, None].to(r.dtype)
