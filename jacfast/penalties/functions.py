"""The other penalties as functions: ``loss + lam * cross_lipschitz_penalty(logits, x)``.

Formulas, options and sources stand with the objects of which these are calls.
"""

import torch
from torch import Tensor

from jacfast.penalties.absolute import ColumnSumL1, DecisionFunction, EntrywiseL1, Norm
from jacfast.penalties.base import Reduction
from jacfast.penalties.checks import Count, Coupled
from jacfast.penalties.gradients import R1, R2, WGANGP, GradientNorm, InputGradient
from jacfast.penalties.squares import CrossLipschitz, Spectral

Source = torch.Generator | None


def cross_lipschitz_penalty(
    logits: Tensor,
    x: Tensor,
    n: Count = 1,
    *,
    generator: Source = None,
    reduction: Reduction = "mean",
    batch_norm: Coupled = "refuse",
) -> Tensor:
    """Return an estimate of ``mean_i sum_{j,k} ||J_j - J_k||^2``; see `CrossLipschitz`.

    The other arguments, the result and the errors: see `frobenius_penalty`.
    """
    return CrossLipschitz(n, reduction=reduction)(
        logits, x, generator=generator, batch_norm=batch_norm
    )


def input_gradient_penalty(
    logits: Tensor,
    x: Tensor,
    y: Tensor,
    norm: GradientNorm = "squared",
    *,
    reduction: Reduction = "mean",
    batch_norm: Coupled = "refuse",
) -> Tensor:
    """Return ``mean_i ||d CE_i / dx_i||^2``, or a norm; see `InputGradient`.

    Labels y are [N] int64. The other arguments, the result and the errors: see `frobenius_penalty`.
    """
    return InputGradient(norm, reduction=reduction)(logits, x, y, batch_norm=batch_norm)


def wgan_gp_penalty(
    logits: Tensor,
    x: Tensor,
    target: float = 1.0,
    *,
    reduction: Reduction = "mean",
    batch_norm: Coupled = "refuse",
) -> Tensor:
    """Return ``mean_i (||grad D(x_i)||_2 - target)^2``; see `WGANGP`.

    The other arguments, the result and the errors: see `frobenius_penalty`.
    """
    return WGANGP(target, reduction=reduction)(logits, x, batch_norm=batch_norm)


def r1_penalty(
    logits: Tensor, x: Tensor, *, reduction: Reduction = "mean", batch_norm: Coupled = "refuse"
) -> Tensor:
    """Return ``mean_i ||grad D(x_i)||^2`` at real images; see `R1`.

    The other arguments, the result and the errors: see `frobenius_penalty`.
    """
    return R1(reduction=reduction)(logits, x, batch_norm=batch_norm)


def r2_penalty(
    logits: Tensor, x: Tensor, *, reduction: Reduction = "mean", batch_norm: Coupled = "refuse"
) -> Tensor:
    """Return ``mean_i ||grad D(x_i)||^2`` at generated images; see `R2`.

    The other arguments, the result and the errors: see `frobenius_penalty`.
    """
    return R2(reduction=reduction)(logits, x, batch_norm=batch_norm)


def spectral_penalty(
    logits: Tensor,
    x: Tensor,
    iterations: int = 3,
    *,
    generator: Source = None,
    reduction: Reduction = "mean",
    batch_norm: Coupled = "refuse",
) -> Tensor:
    """Return ``mean_i ||J||_2^2`` by power iteration; see `Spectral`.

    The other arguments, the result and the errors: see `frobenius_penalty`.
    """
    return Spectral(iterations, reduction=reduction)(
        logits, x, generator=generator, batch_norm=batch_norm
    )


def entrywise_l1_penalty(
    logits: Tensor,
    x: Tensor,
    n: Count = "exact",
    *,
    generator: Source = None,
    reduction: Reduction = "mean",
    batch_norm: Coupled = "refuse",
) -> Tensor:
    """Return ``mean_i sum_{k,d} |J_kd|``; see `EntrywiseL1`.

    The other arguments, the result and the errors: see `frobenius_penalty`.
    """
    return EntrywiseL1(n, reduction=reduction)(
        logits, x, generator=generator, batch_norm=batch_norm
    )


def column_sum_l1_penalty(
    logits: Tensor, x: Tensor, *, reduction: Reduction = "mean", batch_norm: Coupled = "refuse"
) -> Tensor:
    """Return ``mean_i sum_d |sum_k J_kd|``; see `ColumnSumL1`.

    The other arguments, the result and the errors: see `frobenius_penalty`.
    """
    return ColumnSumL1(reduction=reduction)(logits, x, batch_norm=batch_norm)


def decision_function_penalty(
    logits: Tensor,
    x: Tensor,
    y: Tensor,
    norm: Norm = "l1",
    *,
    reduction: Reduction = "mean",
    batch_norm: Coupled = "refuse",
) -> Tensor:
    """Return ``mean_i ||grad (z_y - max_{k != y} z_k)||``; see `DecisionFunction`.

    Labels y are [N] int64. The other arguments, the result and the errors: see `frobenius_penalty`.
    """
    return DecisionFunction(norm, reduction=reduction)(logits, x, y, batch_norm=batch_norm)
