"""Projected gradient descent, and the basic iterative method: PGD without a random start."""

import dataclasses
import math

import torch
from torch import Tensor

from jacfast.attacks import checks
from jacfast.attacks.ball import Ball
from jacfast.attacks.gradient import finite_rows, forward, labels_of, look
from jacfast.attacks.losses import LOSSES, cotangent, misclassified, value
from jacfast.calling import Call, check_input, quiet, takes_model
from jacfast.lean import lean


@takes_model
def pgd(
    model: Call,
    x: Tensor,
    y: Tensor | None = None,
    *,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    p: float = math.inf,
    loss: str = "cross-entropy",
    random_start: bool = True,
    restarts: int = 1,
    clip: tuple[float, float] | None = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Raise the loss step by step, inside the ball of radius eps around x and inside the box.

    With g the gradient of the loss at the point: ``point <- project(point + step_size * d)``, d =
    ``sign(g)`` for p = inf and ``g / ||g||_2`` for p = 2. The model is evaluated in eval mode and
    left as it was, as is the global random state.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself.
        x: [N, ...], floating point.
        y: [N] int64, true labels; default: the predicted ones.
        eps: the radius, in the p-norm and the units of x; >= 0.
        steps: how many, >= 1; each costs one vector-Jacobian product.
        step_size: in the p-norm, > 0. Default ``2.5 eps / steps``, which Madry et al. used: the
            edge can be reached from any start, and there is way left to move along it.
        p: 2 or ``inf``.
        loss: ``cross-entropy``, or ``margin``: ``max_{i != y} z_i - z_y``, of Carlini & Wagner.
            "C&W at eps" of Yu et al. is ``bim`` with that loss, 10 steps, step_size 0.1.
        random_start: begin at a point drawn uniformly from the ball, then clipped; else at x.
        restarts: runs at most, each from a start of its own. A sample keeps its first misclassified
            result, and leaves; if there is none, that of the largest loss.
        clip: the box of valid inputs, in which x must lie but for roundings, or None.
        generator: of the random starts, on the device of x; from the same state the same result
            (``torch.default_generator`` is the global one). Default: a new one, seeded by the
            system.

    Returns:
        The perturbed batch, without a graph. A sample does not move while its gradient is zero or
        not finite. The result is not always misclassified.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or value is wrong.

    Source: Madry et al. 2018 (arXiv 1706.06083); the margin: Carlini & Wagner 2017, f_6.
    """
    check_input(x)
    checks.check_box(clip, x)
    _check(eps, steps, step_size, p, loss)
    checks.count("restarts", restarts)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts must be 1 without random_start: all are equal; got {restarts}")
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(f"generator must be a torch.Generator; got {type(generator).__name__}")
    if random_start and generator is None:
        generator = torch.Generator(x.device)
        generator.seed()
    size = 2.5 * eps / steps if step_size is None else step_size
    start = generator if random_start else None
    ascent = _Ascent(model, eps, steps, size, p, loss, clip, start)
    with quiet(model), lean(model):
        y = labels_of(model, x, y)
        return ascent.from_x(x.detach(), y) if restarts == 1 else ascent.best(x, y, restarts)


@takes_model
def bim(
    model: Call,
    x: Tensor,
    y: Tensor | None = None,
    *,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    p: float = math.inf,
    loss: str = "cross-entropy",
    clip: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """Raise the loss step by step from x itself, inside the ball and the box: `pgd` from x.

    Arguments, result and errors are those of `pgd`, but for the default step size: here
    ``1.25 eps / steps``. Kurakin et al. fix the step at one grey value and take 1.25 eps of them
    (for eps above 16 of 255): the edge is reached though a fifth of the steps are lost.

    Source: Kurakin, Goodfellow & Bengio 2017 (arXiv 1607.02533), section 2.2.
    """
    checks.count("steps", steps)
    checks.at_least("eps", eps, 0)
    if step_size is None and eps > 0:
        step_size = 1.25 * eps / steps
    return pgd(
        model,
        x,
        y,
        eps=eps,
        steps=steps,
        step_size=step_size,
        p=p,
        loss=loss,
        random_start=False,
        clip=clip,
    )


@dataclasses.dataclass(frozen=True)
class _Ascent:
    model: Call
    eps: float
    steps: int
    size: float
    p: float
    loss: str
    clip: tuple[float, float] | None
    generator: torch.Generator | None

    def from_x(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the end of one run."""
        ball = Ball(x, self.eps, self.p, self.clip)
        point = x if self.generator is None else ball.draw(self.generator)
        for number in range(self.steps):
            leaf, logits = forward(self.model, point)
            if number == 0:
                checks.check_classes(logits, y)
            v = cotangent(self.loss, logits, y)
            g = finite_rows(logits, leaf, v[None])[0].view_as(point)
            point = ball.project(point + self.size * ball.steepest(g))
        return point

    def best(self, x: Tensor, y: Tensor, restarts: int) -> Tensor:
        """Return the best end of each sample; those not yet misclassified run again."""
        found = self.from_x(x.detach(), y)
        logits = look(self.model, found)
        best, left = self._rank(logits, y), (~misclassified(logits, y)).nonzero()[:, 0]
        for _ in range(restarts - 1):
            if len(left) == 0:
                break
            part = dataclasses.replace(self, model=self.model.rows(left))
            again = part.from_x(x.detach()[left], y[left])
            logits = look(part.model, again)
            rank, fooled = self._rank(logits, y[left]), misclassified(logits, y[left])
            better = fooled | (rank > best[left])
            found[left[better]], best[left[better]] = again[better], rank[better]
            left = left[~fooled]
        return found

    def _rank(self, logits: Tensor, y: Tensor) -> Tensor:
        return value(self.loss, logits, y).nan_to_num(nan=-math.inf, posinf=math.inf)


def _check(eps: float, steps: int, step_size: float | None, p: float, loss: str) -> None:
    checks.at_least("eps", eps, 0)
    checks.count("steps", steps)
    checks.one_of("p", p, (2, math.inf))
    checks.one_of("loss", loss, LOSSES)
    if step_size is not None:
        checks.above_zero("step_size", step_size)
