"""Penalties of one gradient per sample: of the loss, and those by which critics are trained."""

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor

from jacfast.checks import at_least, keep, one_of
from jacfast.penalties.base import Penalty, safe_sqrt

GradientNorm = Literal["squared", 1, 2]


@dataclasses.dataclass(frozen=True)
class InputGradient(Penalty):
    """``mean_i ||g_i||^2``, or a norm, of ``g_i = d CE(z(x_i), y_i) / dx_i``.

    The cotangent is ``softmax(z) - onehot(y)``; it depends on the logits and is differentiated
    through. The derivative of the 2-norm is 0 at 0.

    Args:
        norm: ``"squared"``, the square of the 2-norm; 1, ``mean_i sum_d |g_id|``; or 2,
            ``mean_i ||g_i||_2``.

    The other options, the call and its errors: see `Penalty`.

    Source: Ross & Doshi-Velez 2018; Jakubovitz & Giryes 2018 eq. 5 (there the sum over i). The
    1-norm: Rodriguez-Munoz, Wang & Torralba 2024 (arXiv 2409.20139), with smooth activations.
    """

    norm: GradientNorm = "squared"
    needs_labels = True
    of_logits = True

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, norm=one_of("norm", self.norm, get_args(GradientNorm)))

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "sumabs" if self.norm == 1 else "sumsq"

    @property
    def squared(self) -> bool:  # type: ignore[override]
        return self.norm == "squared"

    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        assert y is not None  # check() has seen to it
        onehot = torch.zeros_like(logits, requires_grad=False).scatter(1, y[:, None], 1.0)
        return (logits.softmax(dim=1) - onehot)[None]

    def measure(self, g: Tensor) -> Tensor:
        size = super().measure(g)
        return safe_sqrt(size) if self.norm == 2 else size


@dataclasses.dataclass(frozen=True)
class OfOutputs(Penalty):
    """Of the gradient of the sum of a sample's outputs: a critic's one, or a patch critic's."""

    of_logits = True

    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        return torch.ones_like(logits, requires_grad=False)[None]


@dataclasses.dataclass(frozen=True)
class WGANGP(OfOutputs):
    """``mean_i (||grad D(x_i)||_2 - target)^2``: the two-sided gradient penalty of WGAN-GP.

    D is the sum of a sample's outputs, of which a critic has one. The derivative of the norm is 0
    at 0. In the source x are points between real and generated images, ``real + t (fake - real)``,
    with t uniform in [0, 1], one per sample; target is 1 and the weight 10.

    Args:
        target: the length that gradients are to have, >= 0; or a tensor [], which may be learned.

    The other options, the call and its errors: see `Penalty`.

    Source: Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville 2017, eq. 3.
    """

    target: float | Tensor = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.target, Tensor):
            keep(self, target=at_least("target", self.target, 0))
        elif self.target.dim():
            raise ValueError(f"target must be one number; got shape {list(self.target.shape)}")
        elif not (self.target.is_meta or torch.compiler.is_compiling()):  # learned ones begin there
            at_least("target", self.target.item(), 0)

    def measure(self, g: Tensor) -> Tensor:
        return (safe_sqrt(super().measure(g)) - self.target).square()


@dataclasses.dataclass(frozen=True)
class R1(OfOutputs):
    """``mean_i ||grad D(x_i)||_2^2`` at real images x: the zero-centred gradient penalty R1.

    D is the sum of a sample's outputs, of which a critic has one. In the source the weight is
    gamma / 2.

    The other options, the call and its errors: see `Penalty`.

    Source: Mescheder, Geiger & Nowozin 2018, eq. 9.
    """

    squared = True


@dataclasses.dataclass(frozen=True)
class R2(R1):
    """``mean_i ||grad D(x_i)||_2^2`` at generated images x: R2, the formula of `R1`.

    The other options, the call and its errors: see `Penalty`.

    Source: Mescheder, Geiger & Nowozin 2018, eq. 10.
    """
