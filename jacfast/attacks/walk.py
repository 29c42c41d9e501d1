"""Where DeepFool has got with each of some samples, and how far it may go."""

import copy
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

    def along(self, length: Tensor, q: float) -> Tensor:
        """Return the steps of these lengths [n] towards it [n, D]; anything where there is none."""


class Walk:
    """The perturbation r of each sample of x [N, ...], step by step.

    Args:
        x, options: of the attack. eps: the machine epsilon of x or of the logits, the coarser.
    """

    def __init__(self, x: Tensor, options: Options, eps: float) -> None:
        self.x, self.options, self.r = x, options, torch.zeros_like(x)
        size, box = self.norm_of(x), options.box
        size = torch.where(size > 0, size, box.width if box.bounded else 1)
        self.resolution = eps * size
        self.least = 2 * self.resolution + options.floor  # the length of a step below that
        held = box.bounded or options.max_norm is not None  # then x + r cannot run away
        # how far the steps to come may go, all together
        self.ahead = torch.full_like(size, float("inf")) if held else FAR * size
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
        self.r[index], self.ahead[index] = part.r, part.ahead

    def norm_of(self, x: Tensor) -> Tensor:
        """Return the norm of each sample [N] that is to be kept small."""
        return lengths(x, self.options.p)

    def point(self, kind: str) -> Tensor:
        """Return where the samples are."""
        return self.options.point(self.x, self.r, kind)

    def step(self, nearest: Boundary, running: Tensor) -> Tensor:
        """Step onto the boundaries; say which samples moved [N].

        A step that x could not resolve is lengthened. Those stay that are not running, have no
        boundary, would run away, or would get to no finite point.
        """
        length = nearest.distance + self.options.floor
        length = torch.where(length <= self.resolution, self.least, length)
        ahead = self.ahead - length  # of no boundary -inf, or NaN
        r = self._within(nearest.along(length, self.options.q).view_as(self.r).add_(self.r))
        moved = running & (ahead >= 0) & self._finite(r)
        torch.where(moved, ahead, self.ahead, out=self.ahead)
        torch.where(moved.view(-1, *[1] * (r.dim() - 1)), r, self.r, out=self.r)
        return moved

    def _within(self, r: Tensor) -> Tensor:
        """Return r inside the box and below the cap, where asked."""
        x, options, scale = self.x, self.options, 1 + self.options.overshoot
        if options.clip_steps:
            kind = options.linearize
            r = (options.point(x, r, kind) - x) / (scale if kind == "overshot" else 1.0)
        if options.max_norm is not None:
            r = shorten(r, options.max_norm / scale, options.p)
        return r

    def _finite(self, r: Tensor) -> Tensor:
        """Say whether the adversarial inputs [N] would be finite, where x is."""
        finite = self.options.point(self.x, r, "overshot").abs() < float("inf")
        return (finite if self.holes is None else finite | self.holes).flatten(1).all(dim=1)
