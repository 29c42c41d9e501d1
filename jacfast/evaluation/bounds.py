"""First-order bounds on the distance to the decision boundary."""

from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from jacfast.calling import (
    AnyModel,
    Call,
    Further,
    check_classes,
    logits_of,
    quiet,
    say_not_finite,
    takes_model,
)
from jacfast.evaluation.predict import batches
from jacfast.lean import lean
from jacfast.one_line import one_line
from jacfast.vjp import pull_back


class Bounds(NamedTuple):
    """First-order distances of N samples to the boundaries of their predicted class.

    NaN where they are unknown: a logit is NaN or +inf, or a gradient NaN.

    Attributes:
        boundary: [N, K], Lemma 1: to the boundary with class k; infinite for the class itself.
        nearest: [N], Corollary 2: the smallest of them.
        frobenius: [N], Proposition 3: what ``||J||_F`` alone guarantees; at most `nearest`.
    """

    boundary: Tensor
    nearest: Tensor
    frobenius: Tensor

    def __repr__(self) -> str:
        return one_line(self)


@takes_model
def distance_bounds(
    model: AnyModel, x: Tensor, batch_size: int | None = None, **further: Unpack[Further]
) -> Bounds:
    """Measure how far the linearised decision boundaries are, and what ||J||_F says of them.

    With k* the predicted class, ``f_k = z_k* - z_k`` and J the Jacobian of the logits at x:

        boundary_k = |f_k| / ||grad z_k* - grad z_k||_2          (Lemma 1)
        nearest    = min_k boundary_k                            (Corollary 2)
        frobenius  = min_k |f_k| / (sqrt(2) ||J||_F)             (Proposition 3)

    ``frobenius <= nearest``, always. All three are exact for a linear model; for others they hold
    as far as the model is linear, and DeepFool's ||r|| says how far that is (its first step is
    `nearest`). The boundary with a class whose gradient equals that of k* is infinitely far.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself; evaluated in eval mode and
            left as it was.
        x: [N, ...], floating point.
        batch_size: samples at a time; default all. Memory: O(batch_size D), whatever K.

    Returns:
        `Bounds`, in the dtype of x (float32 for half types), in units of x. Cost: K + 1
        vector-Jacobian products.

    Raises:
        TypeError: x is not floating point. ValueError: a shape or batch_size is wrong, or a
            parameter is not finite.

    Source: Jakubovitz & Giryes 2018, eq. 10 to 12.
    """
    size = len(x) if batch_size is None else batch_size
    with quiet(model), lean(model):
        parts = [_bounds(call, part) for call, part in batches(model, x, size)]
    found = Bounds(*(torch.cat(column) for column in zip(*parts, strict=True)))
    say_not_finite(model, x, found.nearest.isnan())
    return found


def _bounds(model: Call, x: Tensor) -> Bounds:
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = logits_of(model, leaf)
    check_classes(logits)
    z = logits.detach().double()
    own = z.argmax(dim=1, keepdim=True)
    f = (z.gather(1, own) - z).abs()
    unit = torch.zeros_like(logits.detach())

    def pulled(cotangents: Tensor) -> Tensor:
        return pull_back(logits, leaf, cotangents[None], create_graph=False)[0].double()

    # ||J||_F^2 from the differences w_k = J_k - J_k*: sum ||w_k||^2 + 2 g . sum w_k + K ||g||^2.
    g = pulled(unit.scatter(1, own, 1.0))
    total, squares = torch.zeros_like(g), []
    for k in range(z.shape[1]):
        label = torch.full_like(own, k)
        w = pulled(unit.scatter(1, label, 1.0).scatter_add(1, own, -torch.ones_like(unit[:, :1])))
        total += w
        squares.append(w.square().sum(dim=1))
    square = torch.stack(squares, dim=1)
    whole = square.sum(dim=1) + 2 * (g * total).sum(dim=1) + z.shape[1] * g.square().sum(dim=1)
    norm = whole.sqrt()
    f = torch.where(z.gather(1, own) < float("inf"), f, float("nan"))
    boundary = far(f, square.sqrt()).scatter(1, own, float("inf"))
    frobenius = far(f.scatter(1, own, float("inf")).amin(dim=1), 2**0.5 * norm)
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    return Bounds(*(b.to(dtype) for b in (boundary, boundary.amin(dim=1), frobenius)))


def far(f: Tensor, slope: Tensor) -> Tensor:
    """Return ``f / slope``, how far a zero of f is; inf where slope is 0, NaN where one is NaN."""
    return torch.where((slope == 0) & ~f.isnan(), float("inf"), f / slope)
