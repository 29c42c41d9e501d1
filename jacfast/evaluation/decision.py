"""The decision function S of Yu et al.: its value, gradient and curvature."""

from typing import Unpack

import torch
from torch import Tensor

from jacfast import cotangents
from jacfast.attacks.norms import lengths
from jacfast.calling import (
    AnyModel,
    Call,
    Further,
    Twice,
    check_classes,
    check_labels,
    logits_of,
    quiet,
    takes_model,
)
from jacfast.calling.finite import sane, say_bad_logits
from jacfast.checks import above_zero
from jacfast.evaluation.predict import predict
from jacfast.ops.checks import floating
from jacfast.vjp import pull_back


@takes_model
def decision_function(model: AnyModel, x: Tensor, y: Tensor, **further: Unpack[Further]) -> Tensor:
    """Return ``S(x_i) = z_y - max_{k != y} z_k`` of every sample: positive where y is predicted.

    Args:
        model: maps [N, ...] to logits [N, K], K >= 2; evaluated in eval mode and left as it was.
        x: [N, ...], floating point.
        y: [N] int64, true labels.

    Returns:
        [N], in the dtype of the logits, without a graph.

    Raises:
        TypeError: x is not floating point, or y not int64. ValueError: a shape or label is wrong.

    Source: Yu, Liu, Wang & Chen, eq. 2.
    """
    return margin(predict(model, x), y)


@takes_model
def decision_gradient(model: AnyModel, x: Tensor, y: Tensor, **further: Unpack[Further]) -> Tensor:
    """Return ``dS(x_i)/dx_i = J^T (e_y - e_r)`` of every sample, r the runner-up.

    Where two classes tie for the runner-up, that of the lower one is taken.

    Args:
        model, x, y: as for `decision_function`. Cost: one vector-Jacobian product.

    Returns:
        The shape and dtype of x, without a graph, in logits per unit of x. NaN, with a warning, for
        a sample that holds NaN, or has a logit that is NaN or +inf.

    Raises:
        TypeError, ValueError: as `decision_function`; or a parameter is not finite.

    Source: Yu, Liu, Wang & Chen, eq. 4: the Jacobian of their section 4.
    """
    with quiet(model), torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits, g = gradient_at(model, leaf, y, create_graph=False)
    holes = x.flatten(1).isnan().any(dim=1)  # a ReLU has a gradient at NaN
    logits = logits.detach().masked_fill(holes[:, None], torch.nan)
    say_bad_logits(model, x, logits)
    return torch.where(sane(logits)[:, None], g, torch.nan).view_as(x)


@takes_model
def curvature(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    direction: Tensor,
    *,
    step: float | None = None,
    **further: Unpack[Further],
) -> Tensor:
    """Return ``|S''| / (1 + S'^2)^(3/2)`` along a direction, of every sample.

    S' and S'' are the derivatives of ``t -> S(x + t d)`` at 0, d the direction at unit length.

    Args:
        model, x, y: as for `decision_function`.
        direction: the shape of x, or of one sample, floating point; finite, not zero.
        step: None: S'' by a second backward pass, which is 0 for a piecewise-linear network;
            else by the central difference ``(S'(x + step d) - S'(x - step d)) / (2 step)``.

    Returns:
        [N], in the dtype of x (float32 for half types).

    Raises:
        TypeError: x or direction is not floating point, y not int64, or step no number.
            ValueError: a shape, a label, direction or step is wrong.

    Source: Yu, Liu, Wang & Chen, eq. 10.
    """
    check_step(step)
    d = along(direction, x)
    d = d / lengths(d)[:, None]  # float32 for half types, as all that follows
    slope = (decision_gradient(model, x, y).flatten(1) * d).sum(dim=1)
    bend = (hessian_product(model, x, y, d.to(x.dtype), step) * d).sum(dim=1)
    return bend.abs() / (1 + slope.square()) ** 1.5


def hessian_product(
    model: Call, x: Tensor, y: Tensor, vectors: Tensor, step: float | None
) -> Tensor:
    """Return ``H_i v_i`` [N, D] for one vector [N, D] per sample, H the Hessian of S in x.

    By double backward, or with `step` as ``(grad S(x + step v) - grad S(x - step v)) / (2 step)``.
    """
    with quiet(model), Twice(), torch.enable_grad():
        if step is not None:
            moves = step * vectors.view_as(x)
            ends = [
                gradient_at(model, (x.detach() + sign * moves).requires_grad_(), y, False)[1]
                for sign in (1, -1)
            ]
            return (ends[0] - ends[1]) / (2 * step)
        leaf = x.detach().requires_grad_()
        _, g = gradient_at(model, leaf, y, create_graph=True)
        if not g.requires_grad:  # linear in x
            return torch.zeros_like(vectors)
        (product,) = torch.autograd.grad(g, leaf, vectors, allow_unused=True)
        return torch.zeros_like(vectors) if product is None else product.flatten(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return S [N] of logits [N, K]."""
    check_decided(logits, y)
    others = logits.scatter(1, y[:, None], float("-inf")).amax(dim=1)
    return logits.gather(1, y[:, None])[:, 0] - others


def gradient_at(model: Call, leaf: Tensor, y: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
    """Return the logits and dS/dx [N, D] at a tensor that requires a gradient."""
    logits = logits_of(model, leaf)
    vectors = against_runner_up(logits, y)[None]
    return logits, pull_back(logits, leaf, vectors, create_graph)[0]


def against_runner_up(logits: Tensor, y: Tensor) -> Tensor:
    """Return e_y - e_r [N, K], the cotangent of S; check the labels and K."""
    check_decided(logits, y)
    return cotangents.label_against_runner_up(logits, y)[0]


def check_decided(logits: Tensor, y: Tensor) -> None:
    """Check that logits [N, K] have a decision function to the labels y [N]."""
    check_classes(logits)
    check_labels(y, *logits.shape)


def along(direction: Tensor, x: Tensor) -> Tensor:
    """Return a direction in the shape of x or of one sample as [N, D], and check it."""
    floating("direction", direction)
    if direction.shape not in (x.shape, x.shape[1:]):
        raise ValueError(
            f"direction must have the shape of x or of a sample; got {list(direction.shape)}"
        )
    d = direction.detach().to(x).expand_as(x).flatten(1)
    length = lengths(d)
    if not bool(((length > 0) & length.isfinite()).all()):
        raise ValueError("direction must be finite and not zero; its length is not")
    return d


def check_step(step: float | None) -> None:
    """Check the step of a central difference."""
    if step is not None:
        above_zero("step", step)
