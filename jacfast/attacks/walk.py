"""Where DeepFool has got with each sample of a batch, and how far it may go."""

import torch
from torch import Tensor

from jacfast.attacks.norms import lengths, shorten
from jacfast.attacks.options import Options
from jacfast.ops import Nearest

# A step that leads farther than this many times ||x|| is a runaway: in float32, the precision of
# networks, less than a rounding of x is left in x + r, and r says nothing of x any more.
FAR = 2.0**23


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
        held = box.bounded or options.max_norm is not None  # then x + r cannot run away
        self.reach = torch.full_like(size, float("inf")) if held else FAR * size
        self.path = torch.zeros_like(size)  # the lengths of all steps

    def norm_of(self, x: Tensor) -> Tensor:
        """Return the norm of each sample [N] that is to be kept small."""
        return lengths(x, self.options.p)

    def point(self, active: Tensor | slice, kind: str) -> Tensor:
        """Return where these samples are."""
        return self.options.point(self.x[active], self.r[active], kind)

    def plan(self, active: Tensor, nearest: Nearest, running: Tensor) -> tuple[Tensor, Tensor]:
        """Return the steps [n, D] of these samples onto their boundaries, and their paths then.

        A step that x could not resolve is lengthened. It is 0, and the path infinite, of those that
        are not running, have no boundary, or would run away.
        """
        floor, short = self.options.floor, self.resolution[active]
        unresolved = nearest.distance + floor <= short
        distance = torch.where(unresolved, 2 * short, nearest.distance)
        path = self.path[active] + distance + floor
        moving = running & (nearest.winner >= 0) & (path <= self.reach[active])
        step = nearest._replace(distance=distance).step(floor, self.options.q)
        return torch.where(moving[:, None], step, 0), torch.where(moving, path, float("inf"))

    def take(self, active: Tensor, step: Tensor, path: Tensor) -> Tensor:
        """Take planned steps, but for those that lead to no finite point; say who moved [n]."""
        moved = path.isfinite() & self._move(active, step)
        self.path[active] = torch.where(moved, path, self.path[active])
        return moved

    def _move(self, active: Tensor, step: Tensor) -> Tensor:
        """Add the step to r, inside the box and below the cap where asked; say where it can be."""
        x, before, options = self.x[active], self.r[active], self.options
        r, scale = step.view_as(x).add_(before), 1 + options.overshoot
        if options.clip_steps:
            kind = options.linearize
            r = (options.point(x, r, kind) - x) / (scale if kind == "overshot" else 1.0)
        if options.max_norm is not None:
            r = shorten(r, options.max_norm / scale, options.p)
        finite = options.point(x, r, "overshot").isfinite() | ~x.isfinite()
        finite = finite.flatten(1).all(dim=1)
        self.r[active] = torch.where(finite.view(-1, *[1] * (r.dim() - 1)), r, before)
        return finite
