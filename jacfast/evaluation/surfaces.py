"""Loss, decision function, predicted class and logits over a plane in input or parameter space."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from jacfast.calling import AnyModel, Further, check_labels, classes_of, quiet, takes_model
from jacfast.checks import above_zero, count, one_of
from jacfast.evaluation.decision import check_decided, margin
from jacfast.evaluation.predict import BATCH, predict
from jacfast.evaluation.weights import check_module
from jacfast.one_line import one_line
from jacfast.ops.checks import floating


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    check_decided(logits, y)
    return F.cross_entropy(logits, y, reduction="none")


VALUES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "loss": _loss,
    "decision": margin,
    "label": lambda logits, _: classes_of(logits),
    "logits": lambda logits, _: logits,
}


class Surface(NamedTuple):
    """``V(a, b)`` on a square grid of P x P points; float64 on the CPU.

    Attributes:
        steps: [P], the values of a and of b.
        values: [P, P], ``V(steps[i], steps[j])``; [P, P, K] of logits.
        of: loss, decision, label or logits.
        space: input or parameter.
    """

    steps: Tensor
    values: Tensor
    of: str
    space: str

    def __repr__(self) -> str:
        return one_line(self)


@takes_model
def input_surface(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    directions: Tensor,
    extent: float,
    *,
    of: Literal["loss", "decision", "label", "logits"] = "decision",
    points: int = 41,
    **further: Unpack[Further],
) -> Surface:
    """Return ``V(a, b) = L(x + a alpha + b beta)`` for a, b in -extent .. extent.

    L is the cross-entropy to y (``loss``), the decision function ``z_y - max_{k != y} z_k``
    (``decision``), the predicted class (``label``; -1 where a logit is NaN or +inf) or all z_k
    (``logits``: V is [P, P, K]). The points are not clipped to a box.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself; left as it was.
        x: [1, ...], one sample, floating point.
        y: [1] int64, its true label.
        directions: [2, ...], alpha and beta in the shape of the sample, from `plane`, say: with
            orthonormal ones a and b are lengths in units of x. Floating point, finite.
        extent: > 0.
        of: loss, decision, label or logits.
        points: P, >= 3 and odd, so that x itself is one of them.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Yu, Liu, Wang & Chen, eq. 1-2; for labels and logits: Lim, figure 1.
    """
    check_labels(y, len(x))
    if len(x) != 1:
        raise ValueError(f"x must be one sample, [1, ...]; got {len(x)}")
    floating("directions", directions)
    if directions.shape != (2, *x.shape[1:]):  # as many entries in another order would fit
        raise ValueError(
            f"directions must be [2, ...] in the shape of the sample {list(x.shape[1:])}; "
            f"got {list(directions.shape)}"
        )
    if not bool(directions.isfinite().all()):
        raise ValueError("directions must be finite; got NaN or inf")
    steps = _steps(extent, points, of)
    pairs = torch.cartesian_prod(steps, steps)
    alpha, beta = directions.detach().to(x)

    def value(part: Tensor) -> Tensor:
        call = model.rows(torch.zeros(part.shape[1], dtype=torch.int64, device=x.device))
        a, b = part.to(x).view(2, -1, *[1] * (x.dim() - 1))
        return VALUES[of](predict(call, x + a * alpha + b * beta).double(), y.expand(part.shape[1]))

    values = torch.cat([value(part.T) for part in pairs.split(BATCH)])
    values = values.double().cpu().view(points, points, *values.shape[1:])
    return Surface(steps, values, of, "input")


@takes_model
def parameter_surface(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    directions: list[dict[str, Tensor]],
    extent: float = 1.0,
    *,
    of: Literal["loss", "decision"] = "loss",
    points: int = 21,
    **further: Unpack[Further],
) -> Surface:
    """Return the mean over samples of ``L(x; theta + a alpha + b beta)``, |a|, |b| <= extent.

    The parameters themselves are never written to: the model is called with others in their place.

    Args:
        model: an nn.Module that maps [N, ...] to logits [N, K]; evaluated in eval mode.
        x: [N, ...], floating point; y: [N] int64, true labels.
        directions: alpha and beta by the names of the parameters, from `parameter_directions`.
        extent, points: as for `input_surface`.
        of: loss or decision.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Yu, Liu, Wang & Chen, eq. 1 and figure 2; Li et al. 2018.
    """
    module = check_module(model.model)
    check_labels(y, len(x))
    if of not in ("loss", "decision"):
        raise ValueError(f"of must be loss or decision (the mean of labels says nothing); got {of}")
    steps = _steps(extent, points, of)
    own = {name: p.detach() for name, p in module.named_parameters()}
    _check_pair(directions, own)
    alpha, beta = directions

    def value(a: float, b: float) -> float:
        moved = {name: p + a * alpha[name] + b * beta[name] for name, p in own.items()}

        def elsewhere(*args: Any, **kwargs: Any) -> Any:
            return functional_call(module, moved, args, kwargs)

        logits = predict(model.around(elsewhere), x)
        return float(VALUES[of](logits.double(), y).mean())

    with quiet(model, gradients=False):
        rows = [[value(a, b) for b in steps.tolist()] for a in steps.tolist()]
    return Surface(steps, torch.tensor(rows, dtype=torch.float64, device="cpu"), of, "parameter")


def _check_pair(directions: object, own: dict[str, Tensor]) -> None:
    """Check that directions are two, and that each fits the parameters."""
    shapes = {name: p.shape for name, p in own.items()}
    fits = [
        isinstance(d, dict) and {name: getattr(t, "shape", None) for name, t in d.items()} == shapes
        for d in (directions if isinstance(directions, list | tuple) else ())
    ]
    if fits != [True, True]:
        raise ValueError(
            "directions must be two, each with every parameter of the model in its shape, as "
            "parameter_directions gives them"
        )


def _steps(extent: float, points: int, of: str) -> Tensor:
    one_of("of", of, tuple(VALUES))
    above_zero("extent", extent)
    count("points", points, 3)
    if points % 2 == 0:
        raise ValueError(f"points must be odd; got {points}")
    half = torch.linspace(0, extent, points // 2 + 1, dtype=torch.float64, device="cpu")
    return torch.cat([-half[1:].flip(0), half])
