"""The perturbations that the samples of a batch may have: in the box, measured in a norm."""

from torch import Tensor

from jacfast.attacks.box import Box
from jacfast.attacks.lanes import Lanes
from jacfast.attacks.norms import lengths
from jacfast.attacks.projection import shortest
from jacfast.attacks.projection_max import shortest_max
from jacfast.ops.checks import accumulator


class Frame:
    """Samples x [N, ...] and their box; r is flat here, and float32 for half types."""

    def __init__(self, x: Tensor, box: Box, p: float) -> None:
        self.x, self.box, self.p = x, box, p
        wide = x.to(accumulator(x.dtype))
        self.flat = wide.flatten(1)
        self.low = (box.low - wide).flatten(1).clamp(max=0)
        self.high = (box.high - wide).flatten(1).clamp(min=0)

    def point(self, sample: Tensor, r: Tensor) -> Tensor:
        """Return x + r [n, ...] in the box, in the dtype of x; `sample` [n] says of whom."""
        moved = (self.flat[sample] + r).to(self.x.dtype)
        return self.box.clamp(moved.view(-1, *self.x.shape[1:]))

    def way(self, sample: Tensor, point: Tensor) -> Tensor:
        """Return the r [n, D] that leads to a point."""
        return point.flatten(1).to(self.flat) - self.flat[sample]

    def length(self, r: Tensor) -> Tensor:
        """Return ``||r||_p`` [n], float64."""
        return lengths(r, self.p).double()

    def shortest(self, lanes: Lanes) -> Tensor:
        """Return the shortest r [n, D] inside the box and the cuts."""
        find = shortest if self.p == 2 else shortest_max
        return find(self.low[lanes.sample], self.high[lanes.sample], lanes.w, lanes.c)
