"""The distance to one linearised decision boundary: see `deepfool_distance`."""

import torch
from torch import Tensor

from jacfast.ops import checks
from jacfast.ops.row_norm import row_norm


def deepfool_distance(f: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the linearised boundary ``f + w . r = 0`` is from r = 0, and ``||w||_2``.

    ``distance = |f| / ||w||_2``. The step onto the boundary is ``distance w / ||w||`` where f < 0.
    Differentiable any number of times, ``d distance/df = sign(f)/||w||`` (0 at 0) and
    ``d distance/dw = -|f| w/||w||^3``.

    Where f or w is not finite, or the sum of squares of w is not a finite normal number of the
    result's dtype (w = 0; in float32 norms below 1.1e-19 or above 1.8e19), the distance is inf and
    the norm 1, never NaN; the derivatives are 0 there, but for entries of w that are inf or NaN.

    Made of `row_norm` and operations on [N] values: w is read once, and once more for its
    derivative, which is written once. A kernel of its own could not move fewer bytes.

    Args:
        f: [N], the logits' difference ``z_k - z_origin``; float32, float64, float16 or bfloat16.
        w: [N, D], D >= 1, its gradient; dtype and device of `f`.

    Returns:
        distance [N] and norm [N], in the dtype of `w`, or float32 for half types.

    Raises:
        TypeError: a dtype is not as above. ValueError: a shape or device is not.

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016, eq. 8; the use of its derivative: Yan, Guo &
    Zhang 2018 (Deep Defense).
    """
    checks.floating("f", f)
    checks.shape("f", f, "[N]", (None,))
    checks.floating("w", w)
    checks.shape("w", w, "[N, D]", (len(f), None))
    checks.same("w", w, "f", f)
    square = row_norm(w, "sumsq")
    usable = (square >= torch.finfo(square.dtype).tiny) & square.isfinite() & f.isfinite()
    # in float64, where no quotient of float32 numbers overflows
    norm = torch.where(usable, square, 1.0).double().sqrt()
    distance = torch.where(usable, f.abs() / norm, float("inf"))
    return distance.to(square.dtype), norm.to(square.dtype)
