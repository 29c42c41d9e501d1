"""The ascent of the loss inside a ball, which PGD and BIM share."""

import dataclasses
import math

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.ball import Ball
from jacfast.attacks.box import Box, Clip, Size, box_of, length_of, rows_of
from jacfast.attacks.gradient import (
    check_classes,
    counting,
    criterion_of,
    finite_rows,
    forward,
    look,
)
from jacfast.attacks.losses import LOSSES, Criterion
from jacfast.calling import Call, quiet
from jacfast.lean import lean


@dataclasses.dataclass(frozen=True)
class Ascent:
    """PGD with its choices, for one batch."""

    model: Call
    eps: Size
    steps: int
    size: Size
    p: float
    loss: str
    box: Box

    def run(
        self,
        x: Tensor,
        y: Tensor | None,
        target: Tensor | None,
        generator: torch.Generator | None,
        restarts: int,
    ) -> Tensor:
        """Return the best end of each sample; those that are not yet as wanted run again."""
        with quiet(self.model), lean(self.model), counting(x) as lost:
            wanted = criterion_of(x, y, target, lambda: look(self.model, x))
            found = self._once(x, wanted, generator, lost)
            if restarts == 1:
                return found
            logits = look(self.model, found)
            best, left = self._rank(logits, wanted), (~wanted.met(logits)).nonzero()[:, 0]
            for _ in range(restarts - 1):
                if len(left) == 0:
                    break
                part = dataclasses.replace(
                    self,
                    model=self.model.rows(left),
                    eps=rows_of(self.eps, left, x),
                    size=rows_of(self.size, left, x),
                )
                again = part._once(x[left], wanted[left], generator, lost, left)
                logits = look(part.model, again)
                rank, met = self._rank(logits, wanted[left]), wanted[left].met(logits)
                better = met | (rank > best[left])
                found[left[better]], best[left[better]] = again[better], rank[better]
                left = left[~met]
            return found

    def _once(
        self,
        x: Tensor,
        wanted: Criterion,
        generator: torch.Generator | None,
        lost: Tensor,
        here: Tensor | None = None,
    ) -> Tensor:
        """Return the end of one run."""
        ball = Ball(x, self.eps, self.p, self.box)
        point = x if generator is None else ball.draw(generator)
        for number in range(self.steps):
            leaf, logits = forward(self.model, point)
            if number == 0:
                check_classes(logits, wanted)
            v = wanted.cotangent(self.loss, logits)
            g = finite_rows(logits, leaf, v[None], lost, here)[0].view_as(point)
            point = ball.project(point + self.size * ball.steepest(g))
        return point

    def _rank(self, logits: Tensor, wanted: Criterion) -> Tensor:
        return wanted.value(self.loss, logits).nan_to_num(nan=-math.inf)


def ascent_of(
    model: Call,
    x: Tensor,
    eps: Size,
    steps: int,
    step_size: Size | None,
    share: float,
    p: float,
    loss: str,
    clip: Clip,
) -> Ascent:
    """Check the arguments that PGD and BIM share; the default step is that share of eps / steps."""
    eps = length_of("eps", eps, x)
    checks.count("steps", steps)
    checks.one_of("p", p, (2, math.inf))
    checks.one_of("loss", loss, LOSSES)
    size = share * eps / steps
    if step_size is not None:
        size = length_of("step_size", step_size, x, zero=False)
    one = [len(x), *[1] * (x.dim() - 1)]
    for name, length in (("eps", eps), ("step_size", size)):
        if p == 2 and isinstance(length, Tensor) and list(length.shape) != one:
            raise ValueError(
                f"{name} must be a number for p=2, or a tensor {one}; got shape "
                f"{list(length.shape)}"
            )
    box = box_of(clip, x)
    box.check(x)
    return Ascent(model, eps, steps, size, p, loss, box)
