"""DeepFool: the smallest step across the nearest decision boundary, batched."""

from typing import Unpack

from torch import Tensor

from jacfast import checks
from jacfast.attacks.attack import rich
from jacfast.attacks.box import Clip
from jacfast.attacks.deepfool_result import DeepFoolResult
from jacfast.attacks.gradient import count_stalled, counting
from jacfast.attacks.loop import Loop
from jacfast.attacks.options import Options, Point, Variant
from jacfast.attacks.search import Search
from jacfast.attacks.superdeepfool import superdeepfool
from jacfast.calling import AnyModel, Further, check_labels, quiet, say_grey_values, takes_model
from jacfast.lean import lean
from jacfast.memory import advise
from jacfast.progress import watch


@rich
@takes_model
def deepfool(
    model: AnyModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    candidates: int | None = 10,
    overshoot: float = 0.02,
    steps: int = 50,
    floor: float = 0.0,
    clip: Clip = None,
    clip_steps: bool = False,
    linearize: Point = "overshot",
    test: Point = "overshot",
    p: float = 2.0,
    target: Tensor | None = None,
    max_norm: float | None = None,
    mask: Tensor | None = None,
    subspace: Tensor | None = None,
    variant: Variant = "deepfool",
    batch_size: int | None = None,
    progress: bool = False,
    **further: Unpack[Further],
) -> DeepFoolResult:
    """Find for each sample a small perturbation that changes the predicted class.

    With k0 the class to leave, ``f_k = z_k - z_k0`` and ``w_k = df_k/dx``, while the class is still
    k0: ``r += (d + floor) w_l / ||w_l||`` with ``l = argmin_k d_k``, ``d_k = |f_k| / ||w_k||``. The
    adversarial input is ``clip(x + (1 + overshoot) r)``. In the p-norm, with q = p/(p - 1), it is
    ``d_k = |f_k| / ||w_k||_q`` and the step is ``(d + floor) sign(w) (|w| / ||w||_q)^(q - 1)``.

    DeepFool's implementations differ in five choices; each is an argument here, and
    `jacfast.attacks.PRESETS` holds those of the paper, lts4, foolbox, advlib and art, to be passed
    as ``**PRESETS["foolbox"]``. The defaults are those of the authors' Python code (lts4) without
    its added length: predicted label, ten candidates fixed by the clean logits, linearised and
    tested at the overshot point, no clipping.

    The model is evaluated in eval mode and left as it was, no parameter receives a gradient, and
    samples that are fooled leave the batch; on a GPU by halves, so that shapes stay, and what a
    sample has cost (`vjps`) while it was carried along is counted. A step at or below eps ||x||,
    too short to be resolved (at an exact tie of two logits, say), is lengthened to 2 eps ||x||,
    with the machine epsilon of x or of the logits, whichever is coarser. Where x is all zero, the
    width of the box stands for ||x||, or 1 without a box.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself. Outputs that look like
            probabilities draw a warning: after a softmax the boundaries are the same, but far
            from linear.
        x: [N, ...], floating point.
        y: [N] int64, the class to leave; default: the predicted one. A sample that the model does
            not classify as `y` is already fooled: r = 0.
        candidates: how many classes are considered, counting that to leave, largest clean logits
            first; None: all. Each costs at most one vector-Jacobian product per iteration: for a
            sequential network of known layers on the CPU (`jacfast.lipschitz`), candidates that
            cannot be the nearest are skipped.
        overshoot: the relative length added to r, >= 0.
        steps: at most, >= 1.
        floor: a length added to every step (1e-4 in several implementations), in units of x.
        clip: (low, high), the box of valid inputs, in which x must lie but for roundings, or None.
            Numbers, or tensors that broadcast to a sample: [C, 1, 1] holds a bound for each
            channel.
        clip_steps: clip each step, so that r never leaves the box, and not just the point x + r.
        linearize: where the model is linearised: ``overshot``, x + (1 + overshoot) r, or ``plain``,
            x + r (the paper). Where it differs from `test`, an iteration costs one more forward.
        test: where the class is looked at: ``overshot`` or ``plain`` (the paper's algorithm 2).
        p: the norm to keep small: 2, ``inf``, or any p > 1.
        target: [N] int64, classes to reach instead of classes to leave; each step then leads
            across the boundary between the class at the point and the target. Where other
            classes lie between, that can take more iterations than the default. Excludes `y`.
        max_norm: a cap on ``||r||_p``: a longer r is shortened to it after each step.
        mask: the entries of a sample that may change, of shape ``x.shape[1:]``, bool or 0 and 1.
        subspace: [m, D] orthonormal rows, in whose span r stays (clipping may lead out of it). Not
            with another p than 2.
        variant: ``deepfool``, or ``super`` (SuperDeepFool): DeepFool's point is projected back
            along the boundary's normal there, so that r ends at a right angle to the boundary, then
            shortened by bisection; never longer than DeepFool's r. Not with p, target, max_norm.
        batch_size: samples at a time; default all. On a CPU the model sees at most 128 at once in
            any case, but for two passes without a graph, over all. Memory beside the model's,
            whatever K: about five times that of x where x is large; short gradient rows are
            batched, up to 4 MB of them in float64. On a GPU all rows of a batch are kept, and
            joined, where they have at most 2^28 entries.
        progress: show a progress bar over the batches.

    Returns:
        A `DeepFoolResult`; its norms are float32 for half types. A sample with a logit that is NaN
        or +inf, or with no usable gradient, is reported as ``stalled`` (and not ``success``), with
        a warning where the gradient is not finite; the others finish. So is one whose next step
        would lead to no finite point, or, without a box or `max_norm`, farther than
        ``2^23 ||x||``, where not a bit of x in float32 is left in x + r (scale-invariant networks
        run away so: each step lengthens the next); it stays where it was.
        A class whose logit is -inf is never the nearest.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or value is wrong.

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016 (arXiv 1511.04599), algorithm 2 and section 2;
    SuperDeepFool: Abdollahpoorrostam et al. 2023 (arXiv 2303.12481), algorithm 2.
    """
    options = Options(
        candidates=candidates,
        overshoot=overshoot,
        steps=steps,
        floor=floor,
        clip=clip,
        clip_steps=clip_steps,
        linearize=linearize,
        test=test,
        p=p,
        max_norm=max_norm,
        mask=mask,
        subspace=subspace,
        variant=variant,
        batch_size=batch_size,
    )
    options.check()
    progress = checks.flag("progress", progress)
    if clip is None:
        say_grey_values(x)
    _check_labels(y, target, variant, len(x))
    options = options.bound_to(x)
    step = batch_size or len(x)
    starts = watch(range(0, len(x), step), desc="deepfool", unit="batch", disable=not progress)
    search = Search(model, options)
    less = f"less memory is needed with a smaller batch_size; it was {step} of {len(x)} samples"
    with advise(less), quiet(model), lean(model), counting(x) as lost:
        parts = list[DeepFoolResult]()
        for start in starts:
            part = slice(start, start + step)
            leave, reach = (None if labels is None else labels[part] for labels in (y, target))
            loop = Loop(search, model.rows(part), x[part], leave, reach)
            parts.append(superdeepfool(loop) if variant == "super" else loop.attack())
            found = parts[-1]
            count_stalled(model.rows(part), found.adversarial, found.stalled, lost[part])
    return DeepFoolResult.cat(parts)


def _check_labels(y: Tensor | None, target: Tensor | None, variant: str, samples: int) -> None:
    for name, labels in (("y", y), ("target", target)):
        if labels is not None:
            check_labels(labels, samples, name=name)
    if y is not None and target is not None:
        raise ValueError("give y, the classes to leave, or target, the classes to reach; got both")
    if variant == "super" and target is not None:
        raise ValueError("variant='super' needs target=None; got a tensor")
