"""The decision function along one line through a sample."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from jacfast.calling import AnyModel, Further, check_labels, takes_model
from jacfast.checks import several
from jacfast.evaluation.decision import along, decision_function, decision_gradient
from jacfast.evaluation.predict import BATCH
from jacfast.one_line import one_line


class Line(NamedTuple):
    """S on P points of a line; float64 [P] on the CPU.

    Attributes:
        t: the points.
        value: ``S(x + t d)``.
        slope: ``dS/dt`` there.
    """

    t: Tensor
    value: Tensor
    slope: Tensor

    def __repr__(self) -> str:
        return one_line(self)


@takes_model
def decision_line(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    direction: Tensor,
    t: Tensor | Sequence[float],
    **further: Unpack[Further],
) -> Line:
    """Return ``S(x + t d)`` and ``dS/dt = d . grad S(x + t d)``, ``S = z_y - max_{k != y} z_k``.

    The direction d is taken at the length it has: with one of length 1, t is a distance (L2) in
    units of x; with a sign, FGSM's say, the largest change of an entry. The points are not clipped
    to a box. At a kink the slope is that of one side.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself, K >= 2; left as it was.
        x: [1, ...], one sample, floating point.
        y: [1] int64, its true label.
        direction: d, the shape of x or of the sample; finite, not zero.
        t: [P], P >= 1, finite.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Seck, Loosli & Canu, figure 1; Yu, Liu, Wang & Chen, figure 5.
    """
    check_labels(y, len(x))
    if len(x) != 1:
        raise ValueError(f"x must be one sample, [1, ...]; got {len(x)}")
    d = along(direction, x)
    t = torch.tensor(several("t", t), dtype=torch.float64, device="cpu")
    if len(t) == 0 or not bool(t.isfinite().all()):
        raise ValueError(f"t must be [P], P >= 1, and finite; got {t.tolist()}")
    values, slopes = [], []
    for part in t.to(x).split(BATCH):
        points = (x.flatten(1) + part[:, None] * d).view(-1, *x.shape[1:])
        labels = y.expand(len(part))
        call = model.rows(torch.zeros(len(part), dtype=torch.int64, device=x.device))
        values.append(decision_function(call, points, labels))
        slopes.append(decision_gradient(call, points, labels).flatten(1).double() @ d[0].double())
    return Line(t, torch.cat(values).double().cpu(), torch.cat(slopes).cpu())


def crossing(t: Tensor, values: Tensor) -> float | None:
    """Return the first t at which values [P] are not positive, along increasing t [P].

    Between the points linearly; None if there is none, or the first value is not positive, or the
    one before it is NaN.
    """
    steps, s = t.tolist(), values.tolist()
    for i, value in enumerate(s):
        if value <= 0:
            if i == 0 or not s[i - 1] > 0:
                return None
            return steps[i - 1] + s[i - 1] / (s[i - 1] - s[i]) * (steps[i] - steps[i - 1])
    return None
