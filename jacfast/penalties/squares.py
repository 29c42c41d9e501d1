"""Penalties that are sums of squares of J^T v."""

import dataclasses

import torch
from torch import Tensor

from jacfast import cotangents
from jacfast.checks import count, keep
from jacfast.ops import checks
from jacfast.penalties.base import Count, Penalty, check_count, projections, safe_sqrt
from jacfast.portion import portion
from jacfast.vjp import pull_back


@dataclasses.dataclass(frozen=True)
class _Projected(Penalty):
    """Sums of squares over all of a space, or over n random orthonormal directions of it."""

    n: Count = 1
    squared = True
    of_logits = True
    centred = False  # the space is that orthogonal to 1

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, n=check_count(self.n))

    def check(self, logits: Tensor, y: Tensor | None) -> None:
        classes = logits.shape[1]
        projections(self.n, classes - self.centred, "K - 1" if self.centred else "K")

    def draw(
        self, samples: int, logits: Tensor, generator: torch.Generator | None
    ) -> Tensor | None:
        if self.n == "exact":
            return None
        return cotangents.normal(samples, int(self.n), logits, generator)

    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        if draw is not None:
            return cotangents.orthonormal(draw, logits.dtype, self.centred)
        v = cotangents.basis(logits)
        return v - 1 / logits.shape[1] if self.centred else v


@dataclasses.dataclass(frozen=True)
class Frobenius(_Projected):
    """``mean_i ||J(x_i)||_F^2``, estimated without bias from n random orthonormal projections.

    With ``root=True`` ``sqrt(sum_i ||J(x_i)||_F^2)`` over the batch, the loss of Jakubovitz &
    Giryes as they print it (of an estimate, the root is biased; its derivative is 0 at 0; under
    DistributedDataParallel it is of a process's part of the batch, and `fit` refuses it). With
    ``weights`` ``mean_i sum_k w_k ||J_k(x_i)||^2``, J_k the rows.

    Args:
        n: number of projections, 1 .. K (n = K is exact), or ``"exact"`` for the K unit vectors.
        root: the root of the batch's sum instead of the mean.
        weights: [K] of weights >= 0 of the rows.

    Source: Jakubovitz & Giryes 2018 eq. 3, eq. 4 (root) and future work (weights); projections:
    Hoffman, Roberts & Yaida 2019.
    """

    root: bool = dataclasses.field(default=False, kw_only=True)
    weights: Tensor | None = dataclasses.field(default=None, kw_only=True, compare=False)
    of_logits = True

    def __post_init__(self) -> None:
        super().__post_init__()
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
            fine = (self.weights >= 0) & self.weights.isfinite()
            if self.weights.dim() != 1 or not bool(fine.all()):
                raise ValueError(f"weights must be [K] finite numbers >= 0; got {self.weights}")

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

    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        v = super().cotangents(logits, x, y, draw)
        return v if self.weights is None else v * self.weights.to(v.dtype).sqrt()

    def reduce(self, total: Tensor, samples: int) -> Tensor:
        return safe_sqrt(total) if self.root else super().reduce(total, samples)


@dataclasses.dataclass(frozen=True)
class CrossLipschitz(_Projected):
    """``mean_i sum_{j,k} ||J_j(x_i) - J_k(x_i)||^2`` over all ordered pairs of rows, estimated.

    It equals ``2 K ||C J||_F^2`` with ``C = I - 1 1^T / K``, so the K^2 differences cost what
    `Frobenius` costs: n orthonormal projections drawn inside the space orthogonal to 1.

    Args:
        n: number of projections, 1 .. K - 1 (n = K - 1 is exact), or ``"exact"`` for the K centred
            unit vectors.

    Source: Hein & Andriushchenko 2017; Jakubovitz & Giryes 2018 eq. 6 (there the sum over i).
    """

    centred = True
    of_logits = True

    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        return super().cotangents(logits, x, y, draw) * (2 * logits.shape[1]) ** 0.5


@dataclasses.dataclass(frozen=True)
class Spectral(Penalty):
    """``mean_i ||J(x_i)||_2^2``, the squared largest singular value, by power iteration.

    From a random start u, ``u <- J J^T u / ||J J^T u||`` is iterated; the value is ``||J^T u||^2``,
    never more than ``||J||_2^2``. u is held constant in the derivative, which at the fixed point
    is exact (u is a maximum there). An iteration costs two vector-Jacobian products; all rows are
    independent, and no state is kept from one step to the next.

    Args:
        iterations: how often, >= 1.

    Source: Jakubovitz & Giryes 2018, future work; Yoshida & Miyato 2017 for the iteration.
    """

    iterations: int = 3
    squared = True

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, iterations=count("iterations", self.iterations))

    def draw(
        self, samples: int, logits: Tensor, generator: torch.Generator | None
    ) -> Tensor | None:
        return cotangents.normal(samples, 1, logits, generator)

    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        assert draw is not None
        start = draw[:, 0].to(logits.dtype)
        u = cotangents.unit(start, start)
        # g(v) = J^T v is linear in v, so its own backward pass at t is J t, whatever v
        v = torch.zeros_like(u, requires_grad=True)
        pulled = pull_back(logits, x, v[None], create_graph=True)[0]
        for _ in range(self.iterations if pulled.requires_grad else 0):
            g = pull_back(logits, x, u[None], create_graph=False)[0]
            (pushed,) = torch.autograd.grad(
                pulled, v, cotangents.unit(g, g), retain_graph=True, materialize_grads=True
            )
            u = cotangents.unit(pushed, u)
        return u[None]
