"""The penalty most people come for, with explicit vectors if wanted; and the class people know."""

import dataclasses

import torch
from torch import Tensor, nn

from jacfast import cotangents
from jacfast.checks import count, is_number, one_of
from jacfast.ops import checks
from jacfast.penalties.base import (
    REDUCTIONS,
    Count,
    Coupled,
    Penalty,
    Reduction,
    check_batch_norm,
    check_graph,
)
from jacfast.penalties.squares import Frobenius


def frobenius_penalty(
    logits: Tensor,
    x: Tensor,
    n: Count = 1,
    *,
    generator: torch.Generator | None = None,
    vectors: Tensor | None = None,
    reduction: Reduction = "mean",
    batch_norm: Coupled = "refuse",
) -> Tensor:
    """Return an unbiased estimate of ``mean_i ||J(x_i)||_F^2``, with ``J = dz/dx``; no factor 1/2.

    Add it to the loss: ``loss = cross_entropy(logits, y) + lam * frobenius_penalty(logits, x)``.
    It is differentiable in the parameters (double backward). Per sample, n random orthonormal
    vectors v_j of R^K are drawn and ``K/n * sum_j ||J^T v_j||^2`` is averaged over the batch; at
    n = K that is exact. ``n="exact"`` uses the K unit vectors and draws nothing.

    Args:
        logits: [N, ...], what the model returned for `x`; flattened to [N, K].
        x: [N, ...], floating point, with requires_grad set before the model was called.
        n: number of projections, 1 .. K, or ``"exact"``. Cost: n vector-Jacobian products.
        generator: source of the draw, on the device of `logits`; default: that device's own.
        vectors: [n, N, K], cotangents to use as they are instead of a draw (`n` is then ignored):
            the value is ``mean_i sum_j ||J_i^T v_ij||^2``.
        reduction: ``"mean"``, or ``"none"`` for the value of each sample.
        batch_norm: where batch-norm in training mode makes samples depend on each other,
            ``"refuse"``, or ``"coupled"``: differentiate the batch as it is, so that the row of a
            sample is the gradient of all samples' logits.

    Returns:
        A scalar, or [N] with ``reduction="none"``; float32 for half-precision models, else in the
        dtype of `x`.

    Raises:
        TypeError: x is not floating point, or a type is not as above.
        ValueError: x does not require grad or is not part of the graph of `logits`; the batch is
            empty or differs between `logits` and `x`; n < 1 or n > K; a shape is not as above.
        RuntimeError: a batch-norm in training mode makes each sample's logits depend on the whole
            batch; a Function in the model leaves no second derivative; or the call is inside a
            torch.func transform.

    Source: Jakubovitz & Giryes 2018 eq. 3; projections: Hoffman, Roberts & Yaida 2019.
    """
    if vectors is None:
        penalty = Frobenius(n, reduction=reduction)
        return penalty(logits, x, generator=generator, batch_norm=batch_norm)
    check_batch_norm(batch_norm)
    logits = check_graph(logits, x)
    checks.floating("vectors", vectors)
    checks.shape("vectors", vectors, "[n, N, K]", (None, *logits.shape))
    if len(vectors) < 1:
        raise ValueError(f"vectors must have n >= 1; got shape {list(vectors.shape)}")
    checks.same("vectors", vectors, "logits", logits)
    return _Given(vectors, reduction=reduction)(logits, x, batch_norm=batch_norm)


@dataclasses.dataclass(frozen=True)
class _Given(Penalty):
    """``mean_i sum_j ||J_i^T v_ij||^2`` for vectors [n, N, K]."""

    vectors: Tensor
    squared = True

    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        return self.vectors


class JacobianReg(nn.Module):
    """``1/2 mean_i ||J(x_i)||_F^2``, estimated with n independent unit-sphere vectors.

    The semantics, scale and argument order of the class of that name by Hoffman, Roberts & Yaida
    (2019), so that an existing weight lambda carries over: ``reg = JacobianReg(n=1)`` and
    ``loss = cross_entropy(y, target) + lam * reg(x, y)``. ``n=-1`` is exact. Unlike
    `frobenius_penalty` it carries the factor 1/2, and its vectors are not orthogonalised. Models
    with batch-norm in training mode are refused unless ``batch_norm="coupled"``, which does what
    that class does: the whole batch is differentiated as it is.
    """

    def __init__(
        self, n: int = 1, *, reduction: Reduction = "mean", batch_norm: Coupled = "refuse"
    ) -> None:
        super().__init__()
        least = -1 if is_number(n) and n == -1 else 1
        self.n = count("n", n, least, ", or -1 for the exact penalty")
        self.reduction = one_of("reduction", reduction, REDUCTIONS)
        check_batch_norm(batch_norm)
        self.batch_norm = batch_norm

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the penalty at inputs `x` [N, ...] for the outputs `y` [N, ...] of the model.

        A scalar, or the samples' values [N] with ``reduction="none"``.
        """
        y = check_graph(y, x)
        if self.n == -1:
            vectors = cotangents.basis(y)
        else:
            draw = cotangents.normal(len(y), self.n, y, None)
            vectors = cotangents.unit_sphere(draw, y.dtype)
        penalty = _Given(vectors, reduction=self.reduction)
        return penalty(y, x, batch_norm=self.batch_norm) / 2
