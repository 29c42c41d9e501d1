"""Directions in input space, along which surfaces are drawn."""

from typing import Literal, Unpack, get_args

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.losses import cotangent
from jacfast.attacks.norms import lengths
from jacfast.calling import AnyModel, Further, check_labels, logits_of, quiet, takes_model
from jacfast.evaluation.decision import check_decided
from jacfast.ops.checks import floating
from jacfast.vjp import pull_back

Direction = Literal["random", "loss", "least_likely", "margin"]
DIRECTIONS: tuple[str, ...] = get_args(Direction)


@takes_model
def input_direction(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    kind: Direction = "random",
    *,
    seed: int = 0,
    **further: Unpack[Further],
) -> Tensor:
    """Return a direction of unit length in input space for every sample.

    Each gradient is signed as the attack that uses it moves:

    - ``random``: uniform on the sphere, the same for all samples;
    - ``loss``: the gradient of the cross-entropy to the true label, upwards;
    - ``least_likely``: of the cross-entropy to the least likely label, downwards;
    - ``margin``: of the margin loss ``max_{k != y} z_k - z_y = -S``, upwards.

    Args:
        model: maps [N, ...] to logits [N, K], K >= 2; evaluated in eval mode and left as it was.
        x: [N, ...], floating point.
        y: [N] int64, true labels.
        kind: one of those above.
        seed: of the random direction; the global random state is not touched.

    Returns:
        The shape and dtype of x, without a graph.

    Raises:
        TypeError, ValueError: an argument is not as above, or a gradient is zero or not finite.

    Source: Yu, Liu, Wang & Chen, eq. 3.
    """
    check_labels(y, len(x))
    checks.one_of("kind", kind, DIRECTIONS)
    if kind == "random":
        shape = (1, *x.shape[1:])
        source = torch.Generator().manual_seed(checks.seed(seed))
        drawn = torch.randn(shape, generator=source, dtype=torch.float64, device=source.device)
        return (drawn / drawn.norm()).to(x).expand_as(x)
    with quiet(model), torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = logits_of(model, leaf)
        check_decided(logits, y)
        v = _uphill(logits.detach(), y, kind)
        g = pull_back(logits, leaf, v[None], create_graph=False)[0]
    length = lengths(g)[:, None]
    if not bool(((length > 0) & length.isfinite()).all()):
        raise ValueError(f"the gradient of kind={kind!r} must be finite and not zero at x")
    return (g / length).to(x.dtype).view_as(x)


def _uphill(logits: Tensor, y: Tensor, kind: str) -> Tensor:
    """Return the cotangent of each sample."""
    if kind == "margin":
        return cotangent("margin", logits, y)
    if kind == "loss":
        return cotangent("cross-entropy", logits, y)
    return -cotangent("cross-entropy", logits, logits.argmin(dim=1))


def plane(first: Tensor, second: Tensor) -> Tensor:
    """Return two orthonormal directions spanning the plane of `first` and `second`.

    The first is that of `first`, the second the part of `second` at a right angle to it.

    Args:
        first, second: floating point, of one shape: that of a sample, as `input_surface` needs it.

    Returns:
        [2, ...], in the dtype of `first`.

    Raises:
        TypeError: one is not floating point. ValueError: the shapes differ or are of one entry, or
            the two are parallel, zero or not finite.

    Source: the base vectors of Yu, Liu, Wang & Chen, section 2.1.
    """
    floating("first", first)
    floating("second", second)
    if first.shape != second.shape:
        raise ValueError(
            f"first and second must have one shape; got {list(first.shape)}, {list(second.shape)}"
        )
    if first.numel() < 2:
        raise ValueError(
            f"first and second must have two entries at least, to span a plane; got "
            f"{list(first.shape)}"
        )
    a, b = first.detach().flatten().double(), second.detach().flatten().double()
    a, b = a / a.norm(), b / b.norm()
    b = b - (a @ b) * a
    if not float(b.norm()) > 1e-6:
        raise ValueError("first and second must be finite and span a plane; they are parallel")
    b = b / b.norm()
    return torch.stack([a, b - (a @ b) * a]).view(2, *first.shape).to(first.dtype)
