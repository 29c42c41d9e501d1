"""The shortest perturbation for a given number of passes through the network."""

import dataclasses
import math
from typing import Unpack

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.attack import images_of
from jacfast.attacks.attack_result import AttackResult
from jacfast.attacks.box import Clip, box_of, check_bounds
from jacfast.attacks.frame import Frame
from jacfast.attacks.gradient import counting, forward, look, wanted_in
from jacfast.attacks.hunt import Hunt
from jacfast.attacks.norms import lengths
from jacfast.calling import AnyModel, Further, classes_of, quiet, takes_model
from jacfast.lean import lean
from jacfast.ops.checks import floating

LEAST = 5  # passes: forward and a row at x, both at one point, the look at what is returned


@dataclasses.dataclass(frozen=True, repr=False)
class MinimalNormResult(AttackResult):
    """An `AttackResult` of N samples, and what it cost; tensors on the device of x.

    Attributes:
        forwards: [N] int64, forward passes of the sample through the model.
        backwards: [N] int64, vector-Jacobian products of the sample.
    """

    forwards: Tensor
    backwards: Tensor

    def figures(self) -> dict[str, float]:
        """Return the figures of `summary` by their names."""
        return {
            **super().figures(),
            "forward passes per sample": float(self.forwards.double().mean()),
            "backward passes per sample": float(self.backwards.double().mean()),
        }


@images_of
@takes_model
def minimal_norm(
    model: AnyModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    target: Tensor | None = None,
    p: float = 2.0,
    budget: int = 100,
    candidates: int | None = 10,
    start: Tensor | None = None,
    clip: Clip = (0.0, 1.0),
    **further: Unpack[Further],
) -> MinimalNormResult:
    """Find for each sample the shortest perturbation that changes its class, in few passes.

    ``min ||r||_p`` over r with ``max_{i != y} z_i(x + r) > z_y(x + r)`` and x + r in the box. Where
    the network is looked at, one forward and one backward pass give a *cut*: the half-space in
    which another class wins, as the network is linearised there. The next point is the shortest r
    inside the box and the last three cuts, and a little beyond (overshoot); once there is a point
    of another class, a part of the way from it to there.

    It begins with the cuts of the nearest classes, linearised at x, as DeepFool does. The few
    whose cuts are nearest race with half of the budget; from the winner's point the search goes on
    alone. The overshoot is halved after a success and doubled after a failure; where it is at its
    largest after the race and nothing was found, steps begin at the last point, as DeepFool's do.
    After a shorter point a little more of the way is gone, after any other a fifth less: so far the
    cuts can be trusted. A cut that excludes the best point is dropped. A sample leaves after eight
    looks that gained less than 0.1%.

    The scale of the logits plays no part, and no sample depends on the others, but for roundings.
    The model is evaluated in eval mode and left as it was.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself.
        x: [N, ...], floating point.
        y: [N] int64, the class to leave; default: the predicted one.
        target: [N] int64, the classes to reach. Excludes `y`.
        p: the norm to keep small: 1, 2 or ``inf``. For 1 and inf the point inside box and cuts is a
            linear program: the projection takes some five to nine times as long. In the 1-norm it
            changes few entries by all that they may, far from where the network was linearised:
            more passes gain more then than in the 2-norm.
        budget: passes of a sample through the model at most, >= 5. A forward pass counts one, a
            vector-Jacobian product one, everything included: the pass at x, the rows there, and the
            look at the images that are returned. The more, the shorter as a rule, if not for each
            sample; beyond 100 little was gained where it was measured.
        candidates: how many classes are considered at x, counting y, largest logits first; None:
            all. Each costs a backward pass; together at most a quarter of `budget`.
        start: [N, ...], floating point, points in the box from which the search begins, too, such
            as another attack's images, for two of the passes. Where that point is as wanted,
            nothing longer is returned.
        clip: (low, high), the box of valid inputs, in which x must lie but for roundings, or None.
            Numbers, or tensors that broadcast to a sample: [C, 1, 1] holds a bound for each
            channel.

    Returns:
        The perturbed batch, without a graph; `minimal_norm.result` returns a `MinimalNormResult`
        with lengths, success and passes. Samples for which nothing was found are returned
        unchanged, and so are those that were as wanted from the start. Another class must win by
        four epsilons of the logits, so that it still does in another batch: with bfloat16 logits,
        under autocast as well, by 3% of the largest.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or value is wrong.

    Source: the linearised boundaries and the projection onto them: Moosavi-Dezfooli, Fawzi &
    Frossard 2016 (arXiv 1511.04599); projections onto box and boundary: Croce & Hein 2020 (arXiv
    1907.02044); several cuts, their race and their bookkeeping: this library.
    """
    check_choices(p, budget, candidates, clip)
    box = box_of(clip, x)
    box.check(x)
    if start is not None:
        start = _like_x(start, x)
        box.check(start, name="start")
    with quiet(model), lean(model), counting(x) as lost:
        leaf, logits = forward(model, x)
        clean = logits.detach()
        wanted = wanted_in(clean, x, y, target)
        eps = max(torch.finfo(x.dtype).eps, torch.finfo(clean.dtype).eps)
        frame = Frame(x, box, p, eps)
        hunt = Hunt(model, frame, wanted, wanted.met(clean))
        lanes = hunt.run(leaf, logits, budget - 2, candidates, start)
        lost += hunt.lost * ~hunt.done
        each = lanes.found.view(-1, *[1] * (x.dim() - 1))
        found = torch.where(each, frame.point(lanes.sample, lanes.best), x)
        after = look(model, found)
    return MinimalNormResult(
        adversarial=found,
        r=found - x,
        norm=lengths(found - x, p),
        success=wanted.met(after),
        before=clean.argmax(dim=1) if y is None else y.clone(),
        label=classes_of(after),
        forwards=hunt.forwards + 2,
        backwards=hunt.backwards,
        p=p,
    )


def check_choices(p: float, budget: int, candidates: int | None, clip: Clip) -> None:
    """Check the choices by themselves, without the samples."""
    checks.one_of("p", p, (1, 2, math.inf))
    checks.count("budget", budget, LEAST)
    if candidates is not None:
        checks.count("candidates", candidates, 2)
    if clip is not None:
        check_bounds("clip", clip)


def _like_x(start: Tensor, x: Tensor) -> Tensor:
    """Return the points to start from as x is, without a graph."""
    floating("start", start)
    if start.shape != x.shape:
        raise ValueError(
            f"start must have the shape of x, {list(x.shape)}; got {list(start.shape)}"
        )
    return start.detach().to(x)
