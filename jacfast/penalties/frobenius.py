"""The penalty most people come for, as object and function; and the class people know."""

import dataclasses

import torch
from torch import Tensor, nn

from jacfast import cotangents
from jacfast.checks import count, flag, is_number, keep, one_of
from jacfast.ops import checks
from jacfast.penalties.base import REDUCTIONS, Penalty, Reduction, safe_sqrt
from jacfast.penalties.checks import Count, Coupled, check_batch_norm, check_graph
from jacfast.penalties.squares import Projected
from jacfast.portion import portion


@dataclasses.dataclass(frozen=True)
class Frobenius(Projected):
    """``mean_i ||J(x_i)||_F^2``, estimated without bias from n random orthonormal projections.

    With ``root=True`` ``sqrt(sum_i ||J(x_i)||_F^2)`` over the batch, the loss of Jakubovitz &
    Giryes as they print it (of an estimate, the root is biased; its derivative is 0 at 0; under
    DistributedDataParallel it is of a process's part of the batch, and `fit` refuses it). With
    ``weights`` ``mean_i sum_k w_k ||J_k(x_i)||^2``, J_k the rows.

    Args:
        n: number of projections, 1 .. K (n = K is exact), or ``"exact"`` for the K unit vectors.
        root: the root of the batch's sum instead of the mean.
        weights: [K] of weights >= 0 of the rows; the derivative in a learned one is 0 at 0. One
            that falls below 0 in training is an error (on a GPU, and in a recorded step, it counts
            as 0): ``torch.nn.utils.parametrize`` of ``WithPenalty(...).learned`` keeps it above.

    The other options, the call and its errors: see `Penalty`.

    Source: Jakubovitz & Giryes 2018 eq. 3, eq. 4 (root) and future work (weights); projections:
    Hoffman, Roberts & Yaida 2019.
    """

    root: bool = dataclasses.field(default=False, kw_only=True)
    weights: Tensor | None = dataclasses.field(default=None, kw_only=True, compare=False)
    of_logits = True

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, root=flag("root", self.root))
        if self.root and self.subsample < 1:
            raise ValueError(
                "subsample must be 1 with root=True: the root of a part's sum estimates nothing; "
                f"got {self.subsample}"
            )
        if self.root and self.reduction == "none":
            raise ValueError(
                "reduction must be 'mean' with root=True, which is of the batch's sum; for roots "
                "of the samples take those of their values; got 'none'"
            )
        if self.weights is not None:
            checks.floating("weights", self.weights)
            _check_weights(self.weights)

    def check(self, logits: Tensor, y: Tensor | None) -> None:
        super().check(logits, y)
        if self.root and portion() is not None:
            raise ValueError(
                "root must be False where processes share a batch: the root of the batch's sum is "
                "no mean of the roots of its parts; got True"
            )
        if self.weights is not None:
            checks.shape("weights", self.weights, "[K]", (logits.shape[1],))
            checks.same_device("weights", self.weights, "logits", logits)
            if self.weights.device.type == "cpu" and not torch.compiler.is_compiling():
                _check_weights(self.weights)  # learned ones move; a GPU is not waited for

    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        v = super().cotangents(logits, x, y, draw)
        return v if self.weights is None else v * safe_sqrt(self.weights.to(v.dtype))

    def reduce(self, total: Tensor, samples: int) -> Tensor:
        return safe_sqrt(total) if self.root else super().reduce(total, samples)


def _check_weights(weights: Tensor) -> None:
    fine = (weights >= 0) & weights.isfinite()
    if weights.dim() != 1 or not bool(fine.all()):
        raise ValueError(f"weights must be [K] finite numbers >= 0; got {weights.detach()}")


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
        vectors: [n, N, K], cotangents to use as they are instead of a draw (`n` and `generator`
            are then without effect): the value is ``mean_i sum_j ||J_i^T v_ij||^2``.
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
    given = _Given(vectors, reduction=reduction)
    return given(logits, x, generator=generator, batch_norm=batch_norm)


@dataclasses.dataclass(frozen=True, eq=False)  # tensors are not compared
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

    Args:
        n: number of vectors, >= 1, or -1.
        reduction, batch_norm: as in `frobenius_penalty`.

    Raises:
        TypeError, ValueError: an option is not as above; called, what `frobenius_penalty` raises.

    Source: Hoffman, Roberts & Yaida 2019 (arXiv 1908.02729).
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
