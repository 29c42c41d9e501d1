"""The perturbations that the samples of a batch may have: in the box, measured in a norm."""

import torch
from torch import Tensor

from jacfast.attacks.box import Box
from jacfast.attacks.lanes import OVERSHOOT, Lanes
from jacfast.attacks.norms import lengths
from jacfast.ops import halfspace_projection
from jacfast.ops.checks import accumulator


class Frame:
    """Samples x [N, ...] and their box; r is flat here, and float32 for half types.

    Args:
        x: the samples. box: of valid inputs. p: of the norm.
        eps: the machine epsilon of x or of the logits, the coarser.
    """

    def __init__(self, x: Tensor, box: Box, p: float, eps: float) -> None:
        self.x, self.box, self.p = x, box, p
        wide = x.to(accumulator(x.dtype))
        self.flat = wide.flatten(1)
        self.low, self.high = (box.low - wide).flatten(1), (box.high - wide).flatten(1)
        # what x is sure to resolve, as DeepFool has it
        self.least = 2 * eps * box.unless_zero(lengths(x)).double()

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

    def shortest(self, lanes: Lanes) -> tuple[Tensor, Tensor]:
        """Return the shortest r [n, D] inside the box and the cuts, and by how much it misses them.

        That is [n] float64, by the cut that is missed most.
        """
        box = self.low[lanes.sample], self.high[lanes.sample]
        return halfspace_projection(*box, lanes.w, lanes.c, self.p)

    def beyond(self, lanes: Lanes, race: bool) -> Tensor:
        """Return the r [n, D] at which a step from where each lane begins ends.

        The step is the shortest one into box and cuts, lengthened by the overshoot, a share of its
        length. In a race all lanes begin at x: a lost one need not be helped, another may win.

        The cuts are farther by as large a share of what x resolves: all of it at the largest, as
        near a boundary r can be shorter than a rounding of x, and on one it has no direction. In
        the 1-norm the entries of r are at the ends of the box and would be cut off again, so the
        cuts are farther instead of r longer.
        """
        start = torch.zeros_like(lanes.best) if race else lanes.start
        stretch = 1 + lanes.overshoot[:, None]
        c = lanes.c + (self.least[lanes.sample] * lanes.overshoot / OVERSHOOT[2])[:, None]
        c = c - torch.einsum("nmd,nd->nm", lanes.w, start).double()
        low, high = (end[lanes.sample] - start for end in (self.low, self.high))
        if self.p == 1:
            return start + halfspace_projection(low, high, lanes.w, c * stretch, self.p)[0]
        step = halfspace_projection(low, high, lanes.w, c, self.p)[0]
        return start + step * stretch.to(step.dtype)
