"""The set in which a norm-limited attack moves."""

import math

import torch
from torch import Tensor

from jacfast.attacks.box import Box, Size
from jacfast.attacks.norms import shorten
from jacfast.cotangents import unit
from jacfast.ops.checks import accumulator


class Ball:
    """The points at most eps from x [N, ...] in the p-norm, p = 2 or inf, and inside the box.

    For p = inf, eps may be a tensor that broadcasts to x: a radius for each entry. For p = 2 one of
    [N, 1, ...]: a radius for each sample.
    """

    def __init__(self, x: Tensor, eps: Size, p: float, box: Box) -> None:
        self.x, self.eps, self.p = x, eps, p
        # with p = inf, ball and box together are a box
        reach = eps if p == math.inf else math.inf
        self.low, self.high = box.clamp(x - reach), box.clamp(x + reach)

    def steepest(self, g: Tensor) -> Tensor:
        """Return the step of p-norm 1 along which ``g . step`` is largest; 0 where g is 0."""
        if self.p == math.inf:
            return g.sign()
        return unit(g.flatten(1), torch.zeros_like(g).flatten(1)).view_as(g)

    def project(self, point: Tensor) -> Tensor:
        """Return points of the set: shortened to eps, then clipped, which lengthens nothing.

        With p = 2 at a face of the box, that is not the nearest point of the set.
        """
        if self.p == 2:
            point = self.x + shorten(point - self.x, self.eps)
        return point.clamp(self.low, self.high)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw points uniformly from the ball, then clip them."""
        rows = self.x.flatten(1)
        noise = torch.empty(rows.shape, dtype=accumulator(rows.dtype), device=rows.device)
        if self.p == math.inf:
            r = noise.uniform_(-1, 1, generator=generator)
        else:
            direction = unit(noise.normal_(generator=generator), noise)
            radius = torch.empty_like(noise[:, :1]).uniform_(generator=generator)
            r = direction * radius ** (1 / rows.shape[1])
        return self.project(self.x + (self.eps * r.view_as(self.x)).to(self.x.dtype))
