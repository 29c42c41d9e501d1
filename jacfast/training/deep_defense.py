"""Deep Defense: train the length of DeepFool's perturbation itself."""

import math
from typing import Unpack

import torch
from torch import Tensor

from jacfast import cotangents
from jacfast.attacks.options import Options
from jacfast.attacks.search import Search, largest_others
from jacfast.calling import (
    AnyModel,
    Call,
    Further,
    Twice,
    check_classes,
    check_labels,
    check_made,
    classes_of,
    eager,
    in_eval_mode,
    logits_of,
    modules_of,
    sane,
    takes_model,
)
from jacfast.checks import above_zero, flag
from jacfast.evaluation.rho import sizes
from jacfast.graph import Graph
from jacfast.ops import checks, deepfool_distance, row_norm
from jacfast.penalties.base import safe_sqrt
from jacfast.penalties.checks import check_apart
from jacfast.vjp import pull_back

MOST = 50.0  # exp(d rho) of a misclassified sample is clamped here


@takes_model
def deep_defense_penalty(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    *,
    c: float = 25.0,
    d: float = 5.0,
    steps: int = 5,
    overshoot: float = 0.02,
    candidates: int | None = 10,
    linked: bool = True,
    **further: Unpack[Further],
) -> Tensor:
    """Return the mean over the batch of ``exp(-c rho)`` or, where misclassified, ``exp(d rho)``.

    ``rho = (1 + overshoot) ||r||_2 / ||x||_2`` with r DeepFool's perturbation: away from y for a
    sample classified as y, else towards y, across the boundary between y and the class predicted at
    the moment. Deep Defense is cross-entropy plus lam = 15 times this, to fine-tune a trained
    network:

        loss = F.cross_entropy(model(x), y) + 15 * jacfast.deep_defense_penalty(model, x, y)

    DeepFool linearises at x + r, looks at the class at x + (1 + overshoot) r, and does not clip, as
    the authors' code does. Each step ``|f| w / ||w||^2`` is differentiated with its class held
    constant: f is the difference of two logits, and w one vector-Jacobian product, whatever K.
    Gradients go to the parameters, not to x. They grow with 1/||w||: clip them where training is
    not stable.

    The model is evaluated in eval mode, so that batch-norm uses its running statistics and dropout
    is off, and put back. Samples not fooled within `steps`, left without a usable gradient, or with
    a logit that is NaN or +inf where r led, count with the r that they had reached. ``exp(d rho)``
    is clamped at 50: beyond that, only the cross-entropy moves a sample. A logit that is NaN or
    +inf at x makes the penalty NaN.

    Args:
        model: maps [N, ...] to logits [N, K], K >= 2, each sample by itself; twice differentiable
            by autograd. A compiled one runs as it was before.
        x: [N, ...], floating point; no sample all zero. (The authors' x has its mean subtracted.)
        y: [N] int64, the true labels.
        c, d: how fast the terms of classified and misclassified samples change, > 0.
        steps: of DeepFool at most, >= 1. The graphs of all steps are kept.
        overshoot: the relative length added to r, >= 0.
        candidates: how many classes are considered, counting y, largest logits at x first; None:
            all.
        linked: differentiate each step also through the steps before it, from which it starts (Deep
            Defense); False: hold the points constant (as in the authors' later AMM).

    Returns:
        A scalar of the dtype of x (float32 for half types), in a graph unless under torch.no_grad.
        Cost, a step: two forward passes, candidates - 1 vector-Jacobian products without a graph,
        and one with it.

    Raises:
        TypeError: x is not floating point, or y not int64. ValueError: a shape or value is wrong.
        RuntimeError: batch-norm couples the samples; or under torch.func or inference mode.

    Source: Yan, Guo & Zhang 2018 (arXiv 1803.00404); Deng, Zhang & Zhao eq. 2.1. AMM: Yan, Guo &
    Zhang 2019.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "deep_defense_penalty must be called outside torch.inference_mode(), which forbids "
            "gradients"
        )
    options = Options(candidates, overshoot, steps, linearize="plain", test="overshot")
    options.check()
    for name, value in (("c", c), ("d", d)):
        above_zero(name, value)
    linked = flag("linked", linked)
    x, size = x.detach(), sizes(x)
    modules = modules_of(model)
    check_made(modules)
    with eager(), Twice(), in_eval_mode(modules), torch.enable_grad():
        correct, fine, r = _perturb(Search(model, options), model, x, y, linked)
    rho = (1 + overshoot) * safe_sqrt(row_norm(r.flatten(1), "sumsq")) / size.to(r.dtype)
    exponent = torch.where(correct, -c * rho, (d * rho).clamp(max=math.log(MOST)))
    return torch.where(fine, exponent.exp(), math.nan).mean()


def _perturb(
    search: Search, model: Call, x: Tensor, y: Tensor, linked: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which samples are classified as y [N], have sane logits [N], and r [N, ...]."""
    options = search.options
    point = x.requires_grad_()
    logits = logits_of(model, point)
    now, labels = _begin(logits, point, y, options.candidates)
    correct, fine = now == y, sane(logits)
    x, active = x.detach(), torch.arange(len(x), device=x.device)
    r = x.new_zeros(x.shape, dtype=checks.accumulator(x.dtype))
    for more in reversed(range(options.steps)):
        step, moving = _step(search, model.rows(active), point, logits, now, labels[active])
        r = r.index_add(0, active, step.view_as(point))
        active = active[moving]
        if not more or len(active) == 0:
            break
        with torch.no_grad():
            moved = options.point(x[active], r[active], "overshot").to(x.dtype)
            now = classes_of(logits_of(model.rows(active), moved))
        running = torch.where(correct[active], now == y[active], now != y[active]) & (now >= 0)
        active, now = active[running], now[running]
        if len(active) == 0:
            break
        point = options.point(x[active], r[active], "plain").to(x.dtype)
        point = point if linked else point.detach().requires_grad_()
        logits = logits_of(model.rows(active), point)
    return correct, fine, r


def _begin(logits: Tensor, x: Tensor, y: Tensor, candidates: int | None) -> tuple[Tensor, Tensor]:
    """Check the logits; return the predicted classes [N] and those to go to [N, C - 1]."""
    check_classes(logits)
    check_labels(y, *logits.shape)
    check_apart(Graph(logits, past=x.grad_fn), x, ways=False)
    now = logits.argmax(dim=1)
    others = largest_others(logits.detach(), y, candidates)
    return now, torch.where((now == y)[:, None], others, y[:, None])


def _step(
    search: Search, model: Call, point: Tensor, logits: Tensor, origin: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the step onto the nearest boundary [n, D], and whose is usable; else it is zero.

    The nearest is searched for without a graph; only its own row is computed with one.
    """
    everyone = torch.ones_like(origin, dtype=torch.bool)
    classes = torch.cat([labels, origin[:, None]], dim=1)
    nearest, _ = search.nearest(model, point, logits, classes, running=everyone)
    winner = nearest.winner.clamp(min=0)
    between = cotangents.boundaries(logits, winner[:, None], origin)
    w = pull_back(logits, point, between, create_graph=True)[0]
    sample = torch.arange(len(logits), device=logits.device)
    f = (logits[sample, winner] - logits[sample, origin]).to(w.dtype)
    distance, norm = deepfool_distance(f, w)
    moving = (nearest.winner >= 0) & distance.isfinite()
    length = torch.where(moving, distance, 0)  # inf is out of the graph before it meets a 0
    step = w.to(norm.dtype) / norm[:, None] * length[:, None]
    return torch.where(moving[:, None], step, 0), moving
