"""The descents of Carlini and Wagner's attack, and the search for the constant between its aims."""

import dataclasses

import torch
from torch import Tensor

from jacfast.attacks.box import Box, tensor_of
from jacfast.attacks.gradient import finite_rows, forward
from jacfast.attacks.losses import Criterion
from jacfast.attacks.norms import lengths
from jacfast.calling import Call
from jacfast.ops.checks import accumulator

INSIDE = 1 - 1e-6  # the start is this far towards a face of the box, where tanh ends
BETAS, TINY = (0.9, 0.999), 1e-8  # of Adam


class Nearest:
    """The nearest point of each sample so far that is as wanted; x where there is none.

    And how often its gradient was `lost`.
    """

    def __init__(self, x: Tensor, wanted: Criterion) -> None:
        self.x, self.wanted, self.point = x, wanted, x.clone()
        self.size = torch.full((len(x),), float("inf"), dtype=torch.float64, device=x.device)
        self.lost = torch.zeros_like(self.size, dtype=torch.int64)

    def offer(self, here: Tensor, point: Tensor, size: Tensor, fooled: Tensor) -> None:
        nearer = fooled & (size < self.size[here])
        self.size[here] = torch.where(nearer, size, self.size[here])
        chosen = nearer.view(-1, *[1] * (point.dim() - 1))
        self.point[here] = torch.where(chosen, point, self.point[here])


def search(descent: "Descent", nearest: Nearest, initial: float, binary_steps: int) -> None:
    """Descend once for each constant of the binary search."""
    const = torch.full_like(nearest.size, initial)
    low, high = torch.zeros_like(const), torch.full_like(const, float("inf"))
    for _ in range(binary_steps):
        fooled = descent.run(nearest, const)
        high = torch.where(fooled, const, high)
        low = torch.where(fooled, low, const)
        const = torch.where(high.isfinite(), (low + high) / 2, 10 * const)


@dataclasses.dataclass(frozen=True)
class Descent:
    """The sum that `carlini_wagner` minimises, but for its constants."""

    model: Call
    confidence: float
    steps: int
    lr: float
    abort_early: bool
    box: Box

    def run(self, nearest: Nearest, const: Tensor) -> Tensor:
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
        low, high = self._bounds(x)
        wide = x.to(low.dtype).clamp(low, high)
        return ((2 * (wide - low) / (high - low) - 1) * INSIDE).atanh()

    def _bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bounds as tensors in the precision of the descent."""
        like = x.new_empty(0, dtype=accumulator(x.dtype))
        return tensor_of(self.box.low).to(like), tensor_of(self.box.high).to(like)

    def _look(
        self, nearest: Nearest, here: Tensor, w: Tensor, const: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Offer the points at w; return the sum [n], its gradient in w, and which are fooled."""
        x, wanted, unit = nearest.x[here], nearest.wanted[here], self.box.width
        low, high = self._bounds(x)
        bent = w.tanh()
        point = (low + (high - low) * (bent + 1) / 2).clamp(low, high).to(x.dtype)
        leaf, logits = forward(self.model.rows(here), point)
        r = (point.to(w.dtype) - x.to(w.dtype)) / unit
        size = lengths(r).double()
        hit = wanted.met(logits, self.confidence)
        nearest.offer(here, point, size, hit)
        short = self.confidence - wanted.value("margin", logits)
        total = size.square() + const * short.clamp(min=0)
        down = -wanted.cotangent("margin", logits)
        pull = finite_rows(logits, leaf, down[None], nearest.lost, here)[0].view_as(w)
        weight = torch.where(short > 0, const, 0).to(w.dtype).view(-1, *[1] * (w.dim() - 1))
        slope = (high - low) / 2 * (1 - bent * bent)  # of x' in w
        return total, (2 * r / unit + weight * pull.to(w.dtype)) * slope, hit
