"""The attack of Carlini and Wagner in the 2-norm."""

import dataclasses
import math

import torch
from torch import Tensor

from jacfast.attacks import checks
from jacfast.attacks.gradient import finite_rows, forward, labels_of, look
from jacfast.attacks.losses import cotangent, misclassified, value
from jacfast.calling import Call, check_input, quiet, takes_model
from jacfast.lean import lean
from jacfast.ops.checks import accumulator

INSIDE = 1 - 1e-6  # the start is this far towards a face of the box, where tanh ends
BETAS, TINY = (0.9, 0.999), 1e-8  # of Adam


@takes_model
def carlini_wagner(
    model: Call,
    x: Tensor,
    y: Tensor | None = None,
    *,
    confidence: float = 0.0,
    steps: int = 1000,
    binary_steps: int = 9,
    initial_const: float = 1e-3,
    lr: float = 1e-2,
    abort_early: bool = True,
    clip: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Find for each sample a misclassified input near it, by gradient descent on both aims.

    ``||x' - x||_2^2 + c max(z_y(x') - max_{i != y} z_i(x') + confidence, 0)`` is minimised by Adam
    over w, with ``x' = low + (high - low) (tanh w + 1) / 2``, once for each of `binary_steps`
    constants c, searched per sample: ten times the last until one succeeds, then bisection. Of all
    points met, the nearest misclassified one is kept.

    No sample depends on the others: each leaves a descent by itself when it stops to fall, and
    those misclassified as they are leave before the first. The model is evaluated in eval mode and
    left as it was.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself.
        x: [N, ...], floating point.
        y: [N] int64, the class to leave; default: the predicted one.
        confidence: by how much another logit must exceed that of y; >= 0.
        steps: points at most, for each constant; >= 1. The first is x itself, Adam finds each from
            the one before it, and each costs one vector-Jacobian product.
        binary_steps: how many constants, >= 1.
        initial_const: the first of them, > 0.
        lr: Adam's step size, in w; > 0.
        abort_early: look every tenth of the steps whether the sum above fell by 1e-4 of itself.
            Entries on a face of the box hardly move at first, since tanh is flat there: where all
            are, a tenth of the steps times `lr` must be some units, or this be False.
        clip: the box of valid inputs, in which x must lie. It is part of the method.

    Returns:
        The perturbed batch, without a graph. Samples never misclassified are returned unchanged,
        and so are those that were from the start.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or value is wrong.

    Source: Carlini & Wagner 2017 (arXiv 1608.04644), sections V and VI; the constants are those of
    the authors' code.
    """
    check_input(x)
    checks.check_box(clip, x)
    if clip is None or not clip[1] - clip[0] < math.inf:
        raise ValueError(
            f"clip must be finite, (low, high): the tangent maps onto that box; got {clip}"
        )
    for name, number in (("steps", steps), ("binary_steps", binary_steps)):
        checks.count(name, number)
    for name, size in (("initial_const", initial_const), ("lr", lr)):
        checks.above_zero(name, size)
    checks.at_least("confidence", confidence, 0)
    with quiet(model), lean(model):
        y = labels_of(model, x, y)
        clean = look(model, x)
        checks.check_classes(clean, y)
        left = (~misclassified(clean, y, confidence)).nonzero()[:, 0]
        found = x.detach().clone()
        if len(left):
            here = model.rows(left)
            descent = _Descent(here, confidence, steps, lr, abort_early, clip)
            nearest = _Nearest(found[left], y[left])
            _search(descent, nearest, initial_const, binary_steps)
            found[left] = nearest.point
    return found


class _Nearest:
    """The nearest misclassified point of each sample so far; x where there is none."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.point = x, y, x.clone()
        self.size = torch.full((len(x),), float("inf"), dtype=torch.float64, device=x.device)

    def offer(self, here: Tensor, point: Tensor, size: Tensor, fooled: Tensor) -> None:
        nearer = fooled & (size < self.size[here])
        self.size[here] = torch.where(nearer, size, self.size[here])
        chosen = nearer.view(-1, *[1] * (point.dim() - 1))
        self.point[here] = torch.where(chosen, point, self.point[here])


def _search(descent: "_Descent", nearest: _Nearest, initial: float, binary_steps: int) -> None:
    """Descend once for each constant of the binary search."""
    const = torch.full_like(nearest.size, initial)
    low, high = torch.zeros_like(const), torch.full_like(const, float("inf"))
    for _ in range(binary_steps):
        fooled = descent.run(nearest, const)
        high = torch.where(fooled, const, high)
        low = torch.where(fooled, low, const)
        const = torch.where(high.isfinite(), (low + high) / 2, 10 * const)


@dataclasses.dataclass(frozen=True)
class _Descent:
    model: Call
    confidence: float
    steps: int
    lr: float
    abort_early: bool
    clip: tuple[float, float]

    def run(self, nearest: _Nearest, const: Tensor) -> Tensor:
        """Minimise the sum for these constants [n]; say which samples were misclassified, [n]."""
        fooled = torch.zeros_like(const, dtype=torch.bool)
        here = torch.arange(len(const), device=const.device)
        before = torch.full_like(const, float("inf"))
        w = self._start(nearest.x)
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        for number in range(self.steps):
            total, g, hit = self._look(nearest, here, w, const[here])
            fooled[here] |= hit
            if self.abort_early and number % max(1, self.steps // 10) == 0:
                falls = total <= 0.9999 * before[here]
                before[here] = total
                if not bool(falls.all()):
                    here, w, mean, square, g = (t[falls] for t in (here, w, mean, square, g))
                if len(here) == 0:
                    break
            # Adam by hand: samples leave between its steps
            mean = torch.lerp(g, mean, BETAS[0])
            square = torch.lerp(g * g, square, BETAS[1])
            first, second = (1 - beta ** (number + 1) for beta in BETAS)
            w = w - self.lr / first * mean / ((square / second).sqrt() + TINY)
        return fooled

    def _start(self, x: Tensor) -> Tensor:
        """Return w with x' = x, but for a millionth."""
        low, high = self.clip
        wide = x.to(accumulator(x.dtype)).clamp(low, high)
        return ((2 * (wide - low) / (high - low) - 1) * INSIDE).atanh()

    def _look(
        self, nearest: _Nearest, here: Tensor, w: Tensor, const: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Offer the points at w; return the sum [n], its gradient in w, and which are fooled."""
        low, high = self.clip
        bent, x, y = w.tanh(), nearest.x[here], nearest.y[here]
        point = (low + (high - low) * (bent + 1) / 2).clamp(low, high).to(x.dtype)
        leaf, logits = forward(self.model.rows(here), point)
        r = point.to(w.dtype) - x.to(w.dtype)
        size = torch.linalg.vector_norm(r.flatten(1), dim=1, dtype=torch.float64)
        hit = misclassified(logits, y, self.confidence)
        nearest.offer(here, point, size, hit)
        short = self.confidence - value("margin", logits, y)  # of misclassification
        total = size.square() + const * short.clamp(min=0)
        pull = finite_rows(logits, leaf, -cotangent("margin", logits, y)[None])[0].view_as(w)
        weight = torch.where(short > 0, const, 0).to(w.dtype).view(-1, *[1] * (w.dim() - 1))
        g = (2 * r + weight * pull.to(w.dtype)) * (high - low) / 2 * (1 - bent * bent)
        return total, g, hit
