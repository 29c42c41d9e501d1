"""Penalties that are sums of squares of J^T v."""

import dataclasses

import torch
from torch import Tensor

from jacfast import cotangents
from jacfast.checks import count, keep
from jacfast.penalties.base import Penalty
from jacfast.penalties.checks import Count, check_count, check_projections
from jacfast.vjp import pull_back


@dataclasses.dataclass(frozen=True)
class Projected(Penalty):
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
        check_projections(self.n, classes - self.centred, "K - 1" if self.centred else "K")

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
class CrossLipschitz(Projected):
    """``mean_i sum_{j,k} ||J_j(x_i) - J_k(x_i)||^2`` over all ordered pairs of rows, estimated.

    It equals ``2 K ||C J||_F^2`` with ``C = I - 1 1^T / K``, so the K^2 differences cost what
    `Frobenius` costs: n orthonormal projections drawn inside the space orthogonal to 1.

    Args:
        n: number of projections, 1 .. K - 1 (n = K - 1 is exact), or ``"exact"`` for the K centred
            unit vectors.

    The other options, the call and its errors: see `Penalty`.

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

    The other options, the call and its errors: see `Penalty`.

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
