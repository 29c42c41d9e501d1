"""What ||J||_F bounds, by Jakubovitz & Giryes, and how far from the bounds networks are."""

from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from jacfast.calling import AnyModel, Call, Further, Model, check_classes, check_input, takes_model
from jacfast.evaluation.bounds import far
from jacfast.evaluation.predict import batches, predict
from jacfast.one_line import one_line
from jacfast.ops.checks import same
from jacfast.rows import jacobian

POINTS = 9  # of the way between two inputs, at which the Jacobian is taken
SAMPLES, ROWS = 16, 64  # of an inner layer's Jacobian, which is large, at a time


class Inequality(NamedTuple):
    """``left <= right`` for each of N samples; float64 [N]. How tight it is: left / right."""

    left: Tensor
    right: Tensor

    def __repr__(self) -> str:
        return one_line(self)


@takes_model
def mean_value_bound(
    model: AnyModel, x: Tensor, moved: Tensor, **further: Unpack[Further]
) -> Inequality:
    """Measure ``||z(x') - z(x)||^2 / ||x' - x||^2 <= max ||J||_F^2`` on the way from x to x'.

    The maximum is over nine points of the way, both ends among them, where the inequality is about
    all: between them a larger J may be missed, so it need not hold to the last digit.

    Args:
        model: maps [N, ...] to logits [N, K]; evaluated in eval mode and left as it was.
        x, moved: [N, ...], floating point, of one shape and dtype; x and x'. Where they are equal,
            left is 0.

    Raises:
        TypeError: x or moved is not floating point, or they differ in dtype. ValueError: a shape is
            wrong.

    Source: Jakubovitz & Giryes 2018, eq. 9.
    """
    check_input(moved, name="moved")
    same("moved", moved, "x", x)
    if moved.shape != x.shape:
        raise ValueError(
            f"moved must have the shape of x, {list(x.shape)}; got {list(moved.shape)}"
        )
    moved = moved.detach()
    here, there = (predict(model, point).double() for point in (x, moved))
    # a class at -inf in both stays there
    change = torch.where(here == there, 0, there - here).square().sum(dim=1)
    way = (moved.double() - x.double()).flatten(1).square().sum(dim=1)
    left = torch.where(way == 0, torch.zeros_like(way), change / way)
    steps = torch.linspace(0, 1, POINTS, dtype=x.dtype, device=x.device)
    squares = [_square(model, torch.lerp(x, moved, step)) for step in steps]
    return Inequality(left, torch.stack(squares).amax(dim=0))


@takes_model
def curvature_bound(model: AnyModel, x: Tensor, **further: Unpack[Further]) -> Inequality:
    """Measure ``(J_k1 x)^2 - (J_k2 x)^2 <= ||J||_F^2 ||x||^2``, largest over the pairs of classes.

    The left side is the curvature of the boundary between k1 and k2 with ``J_k^T J_k`` in the place
    of the Hessian of z_k.

    Args:
        model, x: as for `mean_value_bound`.

    Raises:
        TypeError: x is not floating point. ValueError: a shape is wrong.

    Source: Jakubovitz & Giryes 2018, eq. 13 to 15.
    """
    check_classes(predict(model.rows(slice(1)), x[:1]))
    rows = jacobian(model, x).flatten(2).double()
    along = (rows @ x.flatten(1).double()[:, :, None])[:, :, 0].square()
    right = rows.square().sum(dim=(1, 2)) * x.flatten(1).double().square().sum(dim=1)
    return Inequality(along.amax(dim=1) - along.amin(dim=1), right)


def inner_distance_bound(model: Model, inner: Model, x: Tensor) -> Tensor:
    """Return ``min_k |z_k* - z_k| / (sqrt(2) ||J^(L-1)||_F)`` of every sample, [N] float64.

    It is at most the Frobenius bound of `distance_bounds`, and so a bound on the distance to the
    decision boundary as that is, if the last layer's weight has orthonormal rows (as
    ``nn.Linear.weight``, [K, M]) and nothing else comes after layer L - 1.

    Args:
        model: maps [N, ...] to logits [N, K], K >= 2; evaluated in eval mode and left as it was.
        inner: maps [N, ...] to the output of layer L - 1, [N, M]; ``model[:-1]`` of a sequential
            model that ends in its last layer.
        x: [N, ...], floating point. Cost: M vector-Jacobian products.

    Raises:
        TypeError: x is not floating point. ValueError: a shape is wrong.

    Source: Jakubovitz & Giryes 2018, proposition 4 (eq. 30).
    """
    logits = predict(model, x)
    check_classes(logits)
    norm = (2 * _square(Call(inner, len(x)), x)).sqrt()
    first, second = logits.double().topk(2, dim=1).values.unbind(1)
    return far(first - second, norm)


def _square(model: Call, x: Tensor) -> Tensor:
    """Return ||J||_F^2 [N] of every sample."""
    each = batches(model, x, SAMPLES)
    parts = (jacobian(call, part, chunk_size=ROWS).flatten(1) for call, part in each)
    return torch.cat([rows.double().square().sum(dim=1) for rows in parts])
