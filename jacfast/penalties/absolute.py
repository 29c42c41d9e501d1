"""Penalties with absolute values, and of the decision function."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from jacfast import cotangents
from jacfast.checks import keep, one_of
from jacfast.penalties.base import Penalty, safe_sqrt
from jacfast.penalties.checks import Count, check_count, check_projections
from jacfast.penalties.gradients import OfOutputs

Norm = Literal["l1", "l2", "linf"]
NORMS = {"l1": "sumabs", "l2": "sumsq", "linf": "maxabs"}


@dataclasses.dataclass(frozen=True)
class EntrywiseL1(Penalty):
    """``mean_i sum_{k,d} |J_kd(x_i)|``, of all rows, or estimated from n of them.

    Args:
        n: number of rows, 1 .. K, drawn per sample without replacement and weighted by K/n, which
            is unbiased; ``"exact"`` takes all.

    The other options, the call and its errors: see `Penalty`.

    Source: Seck, Loosli & Canu eq. 3 (there the sum over i), on the logits: they do not say whether
    their output is taken before or after the softmax.
    """

    n: Count = "exact"
    kind = "sumabs"
    of_logits = True

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, n=check_count(self.n))

    def check(self, logits: Tensor, y: Tensor | None) -> None:
        check_projections(self.n, logits.shape[1], "K")

    def draw(
        self, samples: int, logits: Tensor, generator: torch.Generator | None
    ) -> Tensor | None:
        if self.n == "exact":
            return None
        shape, kind = (samples, logits.shape[1]), torch.float32  # whatever the default dtype is
        return torch.rand(shape, dtype=kind, device=logits.device, generator=generator)

    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        if draw is None:
            return cotangents.basis(logits)
        weight = logits.shape[1] / int(self.n)
        return cotangents.some_rows(draw, int(self.n), logits.dtype) * weight


@dataclasses.dataclass(frozen=True)
class ColumnSumL1(OfOutputs):
    """``mean_i sum_d |sum_k J_kd(x_i)|``: the cotangent is the all-ones vector, one product.

    The other options, the call and its errors: see `Penalty`.

    Source: Seck, Loosli & Canu, section 4.2 (there the sum over i).
    """

    kind = "sumabs"


@dataclasses.dataclass(frozen=True)
class DecisionFunction(Penalty):
    """``mean_i ||grad S(x_i)||``, ``S = z_y - max_{k != y} z_k``, in the 1-, 2- or infinity norm.

    Not squared. The runner-up is taken as it is, without a derivative; the derivative of the
    2-norm is 0 at 0.

    Args:
        norm: ``"l1"``, ``"l2"`` or ``"linf"``.

    The other options, the call and its errors: see `Penalty`.

    Source: Yu, Liu, Wang & Chen, eq. 11-12.
    """

    norm: Norm = "l1"
    needs_labels = True
    of_logits = True

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, norm=one_of("norm", self.norm, tuple(NORMS)))

    @property
    def kind(self) -> str:  # type: ignore[override]
        return NORMS[self.norm]

    def check(self, logits: Tensor, y: Tensor | None) -> None:
        super().check(logits, y)
        if logits.shape[1] < 2:
            raise ValueError(f"logits must have K >= 2 classes; got {logits.shape[1]}")

    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        assert y is not None  # check() has seen to it
        return cotangents.label_against_runner_up(logits, y)

    def measure(self, g: Tensor) -> Tensor:
        size = super().measure(g)
        return safe_sqrt(size) if self.norm == "l2" else size
