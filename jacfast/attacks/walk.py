"""Where DeepFool has got with each of some samples, and how far it may go."""

import copy
import math
from typing import Protocol

import torch
from torch import Tensor

from jacfast.attacks.norms import lengths, shorten
from jacfast.attacks.options import Options

# A step that leads farther than this many times ||x|| is a runaway: in float32, the precision of
# networks, less than a rounding of x is left in x + r, and r says nothing of x any more.
FAR = 2.0**23


class Boundary(Protocol):
    """The nearest linearised boundary of each sample, as a search returns it."""

    @property
    def distance(self) -> Tensor:
        """How far it is [n]; infinite where there is none."""

    def add_to(self, r: Tensor, length: Tensor, q: float) -> Tensor:
        """Return r [n, ...] and steps of these lengths [n] towards it; anything without one."""


class Walk:
    """The perturbation r of each sample of x [N, ...], step by step.

    Args:
        x, options: of the attack. eps: the machine epsilon of x or of the logits, the coarser.
    """

    def __init__(self, x: Tensor, options: Options, eps: float) -> None:
        self.x, self.options, self.r = x, options, torch.zeros_like(x)
        box = options.box
        size = box.unless_zero(self.norm_of(x))
        resolution = eps * size
        self.least = 2 * resolution  # the length of a step below that
        short = bool((resolution >= options.floor).any())
        self.resolution = resolution if short else None  # None: no step is below that
        held = box.bounded or (options.max_norm or math.inf) < math.inf  # x + r cannot run away
        # how far the steps to come may go, all together; None: as far as they lead
        self.ahead = None if held else FAR * size
        self.inside = options.clip_steps and box.bounded  # then x + r is finite
        holes = ~(x.abs() < float("inf"))
        self.holes = holes if bool(holes.any()) else None  # entries of x that are not finite

    def rows(self, index: Tensor) -> "Walk":
        """Return the walk of some samples."""
        part = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(part, name, value[index])
        return part

    def put(self, index: Tensor, part: "Walk") -> None:
        """Take over where a walk of `rows` has got."""
        self.r[index] = part.r
        if self.ahead is not None and part.ahead is not None:
            self.ahead[index] = part.ahead

    def norm_of(self, x: Tensor) -> Tensor:
        """Return the norm of each sample [N] that is to be kept small."""
        return lengths(x, self.options.p)

    def point(self, kind: str) -> Tensor:
        """Return where the samples are."""
        return self.options.point(self.x, self.r, kind)

    def step(self, nearest: Boundary, top: Tensor, going: Tensor) -> None:
        """Step onto the boundaries; `going` [N, 2] says who runs, and then who of these moved.

        A step that x could not resolve is lengthened. Those stay that are not running, have no
        boundary, would run away, would get to no finite point, or whose largest logit `top` [N] is
        not finite.
        """
        options, infinite = self.options, float("inf")
        running, moved = going.unbind(dim=1)
        length = nearest.distance + options.floor if options.floor else nearest.distance
        if self.resolution is not None:
            length = torch.where(length <= self.resolution, self.least, length)
        r, reach = self._within(nearest.add_to(self.r, length, options.q))
        # without a boundary the length is infinite; reach and top are added as 0 times their value,
        # which is NaN where that is not finite, so that one comparison looks at all three
        if reach is None:
            sound = torch.add(length, top, alpha=0) < infinite
        elif self.ahead is None:
            sound = torch.addcmul(length, reach, top, value=0) < infinite
        else:
            ahead = self.ahead - length
            sound = torch.addcmul(ahead, reach, top, value=0) >= 0
        torch.logical_and(running, sound, out=moved)
        if self.ahead is not None:
            torch.where(moved, ahead, self.ahead, out=self.ahead)
        torch.where(moved.view(-1, *[1] * (r.dim() - 1)), r, self.r, out=self.r)

    def _within(self, r: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return r inside the box and below the cap, where asked; and a check of where it leads.

        The check is the sum of the adversarial input's entries, [N] float64, which is not finite
        where one of them is not. Entries where x itself is not finite are left out of it. It is
        None where all are sure to be finite.
        """
        x, options, scale = self.x, self.options, 1 + self.options.overshoot
        point = None
        if options.clip_steps:
            point = options.point(x, r, options.linearize)
            r = point - x
            if options.linearize == "overshot":
                r /= scale
        if options.max_norm is not None:
            r = shorten(r, options.max_norm / scale, options.p)
        if point is None:  # else r is finite where the clipped point is
            point = options.point(x, r, "overshot")
        if self.inside:
            return r, None
        if self.holes is not None:
            point = point.masked_fill(self.holes, 0)
        return r, point.flatten(1).sum(dim=1, dtype=torch.float64)
