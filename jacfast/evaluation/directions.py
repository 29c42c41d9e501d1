"""Directions along which surfaces are drawn, in input and in parameter space."""

import torch
from torch import Tensor, nn

from jacfast.evaluation.decision import against_runner_up
from jacfast.quiet import Model, check_input, check_labels, logits_of, quiet
from jacfast.vjp import pull_back

DIRECTIONS = ("random", "loss", "least_likely", "margin")
SCALES = ("filter", "plain")


def input_direction(
    model: Model, x: Tensor, y: Tensor, kind: str = "random", *, seed: int = 0
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
        The shape of x.

    Raises:
        TypeError, ValueError: an argument is not as above, or a gradient is zero or not finite.

    Source: Yu, Liu, Wang & Chen, eq. 3.
    """
    check_input(x)
    check_labels(y, len(x))
    if kind not in DIRECTIONS:
        raise ValueError(f"kind must be one of {', '.join(DIRECTIONS)}; got {kind!r}")
    if kind == "random":
        shape = (1, *x.shape[1:])
        drawn = torch.randn(shape, generator=_source(seed), dtype=torch.float64)
        return (drawn / drawn.norm()).to(x).expand_as(x)
    with quiet(model), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = logits_of(model, leaf)
        cotangent = _uphill(logits.detach().double(), y, kind).to(logits.dtype)
        g = pull_back(logits, leaf, cotangent[None], create_graph=False)[0]
    length = torch.linalg.vector_norm(g, dim=1, keepdim=True)
    if not bool(((length > 0) & length.isfinite()).all()):
        raise ValueError(f"the gradient of kind={kind!r} must be finite and not zero at x")
    return (g / length).view_as(x)


def _uphill(logits: Tensor, y: Tensor, kind: str) -> Tensor:
    """Return the cotangent of each sample at a scale of 1: a saturated softmax loses no digits."""
    if kind == "margin":
        return -against_runner_up(logits, y)
    against_runner_up(logits, y)  # for its checks
    label = y if kind == "loss" else logits.argmin(dim=1)
    # d CE / dz is p off the label and minus their sum at it; relative to the largest of them
    others = logits.scatter(1, label[:, None], float("-inf"))
    relative = (others - others.amax(dim=1, keepdim=True)).exp()
    cotangent = relative.scatter(1, label[:, None], -relative.sum(dim=1, keepdim=True))
    return cotangent if kind == "loss" else -cotangent


def plane(first: Tensor, second: Tensor) -> Tensor:
    """Return two orthonormal directions [2, ...] spanning the plane of `first` and `second`.

    The first is that of `first`, the second the part of `second` at a right angle to it.

    Raises:
        ValueError: the shapes differ, or the two are parallel, zero or not finite.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"first and second must have one shape; got {list(first.shape)}, {list(second.shape)}"
        )
    a, b = first.detach().flatten().double(), second.detach().flatten().double()
    a, b = a / a.norm(), b / b.norm()
    b = b - (a @ b) * a
    if not float(b.norm()) > 1e-6:
        raise ValueError("first and second must be finite and span a plane; they are parallel")
    b = b / b.norm()
    return torch.stack([a, b - (a @ b) * a]).view(2, *first.shape).to(first.dtype)


def parameter_directions(
    model: nn.Module, *, scale: str = "filter", seed: int = 0
) -> list[dict[str, Tensor]]:
    """Return two random directions in parameter space, by the names of the parameters.

    Both are standard normal at first. ``scale="filter"``: each filter (index of the first
    dimension) is scaled to the norm of the model's filter, and parameters of fewer than two
    dimensions (biases, normalisation) are left out (zero). ``scale="plain"``: the direction as a
    whole is scaled to the norm of all parameters. So a coordinate of 1 is a change as large as the
    weights themselves.

    Args:
        model: an nn.Module with floating-point parameters.
        scale: ``filter`` or ``plain``.
        seed: of the draw; the global random state is not touched.

    Raises:
        TypeError: model is no nn.Module. ValueError: scale is unknown.

    Source: Li, Xu, Taylor, Studer & Goldstein 2018 (arXiv 1712.09913), section 4; Goodfellow,
    Vinyals & Saxe 2015.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {scale!r}")
    source = _source(seed)
    return [_parameter_direction(dict(model.named_parameters()), scale, source) for _ in range(2)]


def _parameter_direction(
    parameters: dict[str, nn.Parameter], scale: str, source: torch.Generator
) -> dict[str, Tensor]:
    drawn = {
        name: torch.randn(p.shape, generator=source, dtype=torch.float64).to(p)
        for name, p in parameters.items()
    }
    own = {name: p.detach() for name, p in parameters.items()}
    if scale == "plain":
        factor = _norm(own) / _norm(drawn)
        return {name: factor.to(d) * d for name, d in drawn.items()}
    return {name: _like_filters(d, own[name]) for name, d in drawn.items()}


def _norm(tensors: dict[str, Tensor]) -> Tensor:
    return torch.stack([t.double().norm().cpu() for t in tensors.values()]).norm()


def _like_filters(drawn: Tensor, own: Tensor) -> Tensor:
    if own.dim() < 2:
        return torch.zeros_like(drawn)
    rows = drawn.flatten(1)
    size = own.flatten(1).norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True)
    return (rows * size).view_as(drawn)


def _source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
