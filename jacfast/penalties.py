"""Jacobian penalties: a choice of cotangents and a norm."""

import torch
from torch import Tensor, nn

from jacfast import cotangents
from jacfast.ops import checks
from jacfast.ops.row_norm import row_norm
from jacfast.vjp import pull_back


def frobenius_penalty(
    logits: Tensor,
    x: Tensor,
    n: int | str = 1,
    *,
    generator: torch.Generator | None = None,
    vectors: Tensor | None = None,
) -> Tensor:
    """Return an unbiased estimate of ``mean_i ||J(x_i)||_F^2``, with ``J = dz/dx``; no factor 1/2.

    Add it to the loss: ``loss = cross_entropy(logits, y) + lam * frobenius_penalty(logits, x)``.
    It is differentiable in the parameters (double backward). Per sample, n random orthonormal
    vectors v_j of R^K are drawn and ``K/n * sum_j ||J^T v_j||^2`` is averaged over the batch; at
    n = K that is exact. ``n="exact"`` uses the K unit vectors and draws nothing.

    The model must treat samples apart (batch-norm in eval mode): with batch statistics the
    derivative of one sample's logits reaches the other samples' inputs, and the value is that of
    the coupled batch.

    Args:
        logits: [N, ...], what the model returned for `x`; flattened to [N, K].
        x: [N, ...], floating point, with requires_grad set before the model was called.
        n: number of projections, 1 .. K, or ``"exact"``. Cost: n vector-Jacobian products.
        generator: source of the draw, on the device of `logits`; default: that device's own.
        vectors: [n, N, K], cotangents to use as they are instead of a draw (`n` is then ignored):
            the value is ``mean_i sum_j ||J_i^T v_ij||^2``.

    Returns:
        A scalar, float32 for half-precision models, else in the dtype of `x`.

    Raises:
        TypeError: x is not floating point, or a type is not as above.
        ValueError: x does not require grad or is not part of the graph of `logits`; the batch is
            empty or differs between `logits` and `x`; n < 1 or n > K; a shape is not as above.

    Source: Jakubovitz & Giryes 2018 eq. 3; projections: Hoffman, Roberts & Yaida 2019.
    """
    logits = check_graph(logits, x)
    samples, classes = logits.shape
    if vectors is not None:
        checks.floating("vectors", vectors)
        checks.shape("vectors", vectors, "[n, N, K]", (None, samples, classes))
        if len(vectors) < 1:
            raise ValueError(f"vectors must have n >= 1; got shape {list(vectors.shape)}")
        checks.same("vectors", vectors, "logits", logits)
    elif n == "exact":
        vectors = cotangents.basis(logits)
    else:
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"n must be an int or 'exact'; got {n!r}")
        if not 1 <= n <= classes:
            raise ValueError(f"n must be in 1 .. K = {classes}, or 'exact'; got {n}")
        vectors = cotangents.orthonormal(logits, n, generator)
    return mean_square(logits, x, vectors)


def mean_square(logits: Tensor, x: Tensor, vectors: Tensor) -> Tensor:
    """Return ``mean_i sum_j ||J_i^T v_ij||^2`` for vectors [n, N, K]."""
    g = pull_back(logits, x, vectors, create_graph=True)
    return row_norm(g.flatten(0, 1), "sumsq").sum() / len(x)


def check_graph(logits: Tensor, x: Tensor) -> Tensor:
    """Check that `logits` were computed from `x`, sample by sample; return them as [N, K]."""
    checks.floating("logits", logits)
    checks.floating("x", x)
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "the penalty calls torch.autograd.grad, which torch.func transforms do not see; "
            "call it outside torch.func.grad/vjp/vmap/jvp"
        )
    if logits.dim() < 2:
        raise ValueError(
            f"logits must have shape [N, ...] with K outputs; got {list(logits.shape)}"
        )
    if x.dim() < 1 or len(x) != len(logits):
        raise ValueError(
            f"x must have one entry per row of logits ({len(logits)}); got shape {list(x.shape)}"
        )
    logits = logits.flatten(1)
    if logits.numel() == 0 or x.numel() == 0:
        raise ValueError(
            f"logits and x must not be empty; got {list(logits.shape)} and {list(x.shape)}"
        )
    if not x.requires_grad:
        raise ValueError(
            "x must require grad before the model is called (x.requires_grad_()); "
            "got requires_grad=False"
        )
    if not logits.requires_grad:
        raise ValueError(
            "logits must be part of a graph (computed from x with gradients enabled); "
            "got requires_grad=False"
        )
    return logits


class JacobianReg(nn.Module):
    """``1/2 mean_i ||J(x_i)||_F^2``, estimated with n independent unit-sphere vectors.

    The semantics, scale and argument order of the class of that name by Hoffman, Roberts & Yaida
    (2019), so that an existing weight lambda carries over: ``reg = JacobianReg(n=1)`` and
    ``loss = cross_entropy(y, target) + lam * reg(x, y)``. ``n=-1`` is exact. Unlike
    `frobenius_penalty` it carries the factor 1/2, and its vectors are not orthogonalised.
    """

    def __init__(self, n: int = 1) -> None:
        super().__init__()
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"n must be an int; got {n!r}")
        if n < 1 and n != -1:
            raise ValueError(f"n must be >= 1, or -1 for the exact penalty; got {n}")
        self.n = n

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the penalty at inputs `x` [N, ...] for the outputs `y` [N, ...] of the model."""
        y = check_graph(y, x)
        exact = self.n == -1
        vectors = cotangents.basis(y) if exact else cotangents.unit_sphere(y, self.n)
        return mean_square(y, x, vectors) / 2
