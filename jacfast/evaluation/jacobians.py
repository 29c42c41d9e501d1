"""How large and how sparse Jacobians are."""

from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from jacfast.calling import AnyModel, Further, check_input, takes_model
from jacfast.calling.finite import say_not_finite
from jacfast.checks import above_zero
from jacfast.evaluation.predict import BATCH, batches
from jacfast.one_line import one_line
from jacfast.progress import watch
from jacfast.rows import jacobian


class Statistics(NamedTuple):
    """Of the entries of each of N Jacobians; float64 [N].

    Attributes:
        near_zero: share of entries of magnitude below the threshold.
        mean_abs: mean magnitude of an entry.
        norm: ``||J||_F``, or ``||g||_2``.
    """

    near_zero: Tensor
    mean_abs: Tensor
    norm: Tensor

    def __repr__(self) -> str:
        return one_line(self)


def jacobian_statistics(rows: Tensor, threshold: float) -> Statistics:
    """Measure Jacobians [N, C, ...] of `jacobian`, or gradients [N, ...] of `decision_gradient`.

    Args:
        rows: [N, ...], floating point.
        threshold: below which an entry counts as zero, > 0. Yu et al. used one for the Jacobian and
            one for the Hessian's eigenvalues (to which this applies as well, [N, D]).

    Returns:
        `Statistics`. NaN entries make the mean and the norm NaN, and are not near zero.

    Raises:
        TypeError: rows is not floating point, or threshold no number. ValueError: rows is empty, or
            threshold wrong.

    Source: Yu, Liu, Wang & Chen, section 4.3.
    """
    check_input(rows, name="rows")
    above_zero("threshold", threshold)
    size = rows.detach().flatten(1).double().abs()
    return Statistics(
        near_zero=(size < threshold).double().mean(dim=1),
        mean_abs=size.mean(dim=1),
        norm=torch.linalg.vector_norm(size, dim=1),
    )


@takes_model
def jacobian_norm(
    model: AnyModel,
    x: Tensor,
    *,
    batch_size: int = BATCH,
    progress: str | None = None,
    **further: Unpack[Further],
) -> float:
    """Return the mean over samples of ``||J(x_i)||_F`` (not squared), J of the logits.

    NaN, with a warning, if a sample holds NaN or infinity, whatever its gradients are.

    Args:
        model, x: as for `jacobian`.
        batch_size: samples at a time.
        progress: the label of a progress bar; None: no bar.

    Raises:
        TypeError, ValueError: as `jacobian`; or batch_size < 1, or a parameter is not finite.

    Source: Jakubovitz & Giryes 2018, table 1.
    """
    parts = watch(batches(model, x, batch_size), desc=progress, disable=progress is None)
    norms = torch.cat([_norms(jacobian(call, part), part) for call, part in parts])
    say_not_finite(model, x, norms.isnan())
    return float(norms.mean())


def _norms(rows: Tensor, x: Tensor) -> Tensor:
    """Return the norms [N] of Jacobians; NaN where x is not finite: a ReLU has a gradient there."""
    norms = torch.linalg.vector_norm(rows.flatten(1), dim=1, dtype=torch.float64)
    return torch.where(x.flatten(1).isfinite().all(dim=1), norms, torch.nan)
