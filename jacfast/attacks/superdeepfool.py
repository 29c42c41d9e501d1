"""SuperDeepFool: DeepFool whose r is turned until it meets the boundary at a right angle."""

import torch
from torch import Tensor

from jacfast import cotangents
from jacfast.attacks.deepfool_result import DeepFoolResult
from jacfast.attacks.gradient import forward
from jacfast.attacks.loop import Loop
from jacfast.calling import logits_of, sane
from jacfast.ops.checks import accumulator
from jacfast.vjp import pull_back

ROUNDS = 10  # of DeepFool and projection, at most
HALVINGS = 10  # of the segment from x to the point found


def superdeepfool(first: Loop) -> DeepFoolResult:
    """Attack the batch of `first`: rounds of DeepFool and projection, then bisection.

    Round t runs DeepFool from x_t to a point p on the other side, takes the unit normal n of the
    boundary there, the gradient of ``z_new - z_origin``, and moves to ``x + ((p - x) . n) n``. A
    sample is done when that point is fooled. The shortest fooled point of all is kept.
    """
    x, options = first.x, first.options
    best = first.attack()
    found, size = best.adversarial.clone(), torch.where(best.success, best.norm, float("inf"))
    vjps, iterations = best.vjps.clone(), best.iterations.clone()
    active = torch.arange(len(x), device=x.device)[best.success & (best.norm > 0)]
    point = best.adversarial[active]
    for _ in range(ROUNDS):
        if len(active) == 0:
            break
        parts = zip(active.split(first.at_once), point.split(first.at_once), strict=True)
        r = torch.cat([_projection(first, *part) for part in parts])
        moved = options.point(x[active], r, "plain")
        vjps[active] += 1
        fooled = _keep(first, active, moved, found, size)
        active, moved = active[~fooled], moved[~fooled]
        if len(active) == 0:
            break
        model = first.model.rows(active)
        again = Loop(first.search, model, moved, first.origin[active], None, masked=first.masked)
        step = again.attack()
        vjps[active] += step.vjps
        iterations[active] += step.iterations
        _keep(first, active, step.adversarial, found, size)
        active, point = active[step.success], step.adversarial[step.success]
    _bisect(first, found, size)
    result = first.result_at(found)
    # the end of a bisection is on the boundary but for a rounding, and so may be its other side
    lost = best.success & ~result.success
    found[lost] = best.adversarial[lost]
    return first.result_at(found, vjps=vjps, iterations=iterations)


def _projection(first: Loop, active: Tensor, point: Tensor) -> Tensor:
    """Return ((point - x) . n) n, with n the unit normal at `point`; zero where it has none."""
    leaf, logits = forward(first.model.rows(active), point)
    z, origin = logits.detach(), first.origin[active]
    vectors = cotangents.boundaries(z, z.argmax(dim=1, keepdim=True), origin)
    w = first.options.restrict(pull_back(logits, leaf, vectors, create_graph=False)[0])
    wide = accumulator(w.dtype)
    normal = cotangents.unit(w, torch.zeros_like(w)).to(wide)
    r = (point - first.x[active]).flatten(1).to(wide)
    along = (r * normal).sum(dim=1, keepdim=True)
    return (along * normal).to(point.dtype).view_as(point)


@torch.no_grad()
def _keep(first: Loop, active: Tensor, point: Tensor, found: Tensor, size: Tensor) -> Tensor:
    """Keep the points that are fooled and nearer than those found; say which are fooled."""
    logits = logits_of(first.model.rows(active), point)
    fooled = sane(logits) & (logits.argmax(dim=1) != first.origin[active])
    length = first.walk.norm_of(point - first.x[active])
    nearer = fooled & (length < size[active])
    found[active[nearer]], size[active[nearer]] = point[nearer], length[nearer]
    return fooled


def _bisect(first: Loop, found: Tensor, size: Tensor) -> None:
    """Halve the way between the last fooled and the last unfooled point of each segment."""
    active = torch.arange(len(found), device=found.device)[size.isfinite() & (size > 0)]
    if len(active) == 0:
        return
    end = found[active].clone()
    shape = (-1, *[1] * (end.dim() - 1))
    low, high = torch.zeros_like(size[active]), torch.ones_like(size[active])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        point = torch.lerp(first.x[active], end, middle.view(shape).to(end.dtype))
        fooled = _keep(first, active, point, found, size)
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
