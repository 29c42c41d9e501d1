"""The DeepFool robustness metric rho_adv."""

from typing import Literal, get_args

import torch
from torch import Tensor

from jacfast.attacks.attack_result import AttackResult
from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.deepfool_result import DeepFoolResult
from jacfast.calling import AnyModel, check_input, check_labels, say_not_finite, takes_model, warn
from jacfast.checks import one_of
from jacfast.evaluation.predict import BATCH

Over = Literal["all", "correct", "success"]
OVER: tuple[str, ...] = get_args(Over)


@takes_model
def rho_adv(
    model: AnyModel, x: Tensor, y: Tensor | None = None, *, over: Over = "all", **options
) -> float:
    """Return the mean of ``||r_i||_2 / ||x_i||_2``, r_i the DeepFool perturbation of sample i.

    In the sense of the paper: predicted labels, no clipping, overshoot 0.02, the mean over all
    samples. The other two conventions in use: ``over="correct"`` averages over the samples that the
    model classifies as `y`, ``over="success"`` over those that DeepFool fooled. With ``p=inf``,
    say, both norms are p-norms.

    DeepFool makes a step of at most eps ``||x_i||`` twice that long, with the eps of x or of the
    logits, whichever is larger: so distances below 1.6% are too long where the logits are bfloat16,
    below 0.2% where they are float16, under autocast as well.

    Args:
        model, x: as for `deepfool`.
        y: [N] int64, true labels; needed for ``over="correct"`` only.
        over: ``all``, ``correct`` or ``success``.
        options: passed on to `deepfool` (overshoot, clip, candidates, batch_size, ...).

    Returns:
        A float. Samples that were not fooled count with the r they had reached; a warning says how
        many they were.

    Raises:
        TypeError, ValueError: as `deepfool`; or `over` is unknown, needs labels, leaves no sample,
            or a sample is all zero.

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016 eq. 15; rho_2 of Deng, Zhang & Zhao eq. 2.2.
    """
    check_over(over, x, y)
    result = deepfool(model, x, **options)
    say_not_finite(model, x, result.stalled)
    return rho_of(result, x, y, over=over)


def rho_of(
    result: DeepFoolResult, x: Tensor, y: Tensor | None = None, *, over: Over = "all"
) -> float:
    """Return rho_adv of perturbations that `deepfool` found at `x`.

    Args:
        result: of `deepfool`. If that was given labels, the samples misclassified from the start
            have r = 0 in it, and count so, but for ``over="correct"``.
        x: [N, ...], floating point: the images that were attacked, which are adversarial - r.
        y, over: as for `rho_adv`.

    Returns:
        A float, as `rho_adv`, which also says what is warned of.

    Raises:
        TypeError: x is not floating point, or y not int64. ValueError: x is not what was attacked;
            else as `rho_adv`.

    Source: as `rho_adv`.
    """
    check_attacked(result, x)
    check_over(over, x, y)
    size = sizes(x, result.p)
    keep = torch.ones_like(result.success)
    if over == "success":
        keep = result.success
    elif over == "correct" and y is not None:
        keep = result.clean_label() == y
    missed = int((keep & ~result.success).sum())
    if missed:
        warn(
            f"rho_adv: {missed} of {int(keep.sum())} samples were not fooled; they count with the "
            "r they had reached"
        )
    if not bool(keep.any()):
        raise ValueError(f"over={over!r} must leave at least one sample; got none of {len(x)}")
    return float((result.norm.double() / size)[keep].mean())


def sizes(x: Tensor, p: float = 2.0) -> Tensor:
    """Return ``||x_i||_p`` [N] in float64, to divide by: a sample that is all zero is an error."""
    size = torch.linalg.vector_norm(x.detach().flatten(1).double(), p, dim=1)
    if bool((size == 0).any()):
        first = int((size == 0).nonzero()[0])
        raise ValueError(f"x must have no all-zero sample (||x|| divides); got one at {first}")
    return size


def check_attacked(result: AttackResult, x: Tensor) -> None:
    """Check that a result is of the images x: they are adversarial - r, but for one rounding.

    Whatever the box or the variant, r is ``adversarial - x``, rounded once. So x can differ by a
    rounding of r; four units in the last place of a sample's largest entry are let pass, as x may
    have been computed anew. A sample that is NaN or infinite somewhere is not looked at.
    """
    if not isinstance(result, AttackResult):
        raise TypeError(f"result must be what an attack found; got {type(result).__name__}")
    check_input(x)
    if x.shape != result.r.shape:
        raise ValueError(
            f"x must have the shape of what was attacked, {list(result.r.shape)}; "
            f"got {list(x.shape)}"
        )
    last = 4 * max(torch.finfo(t.dtype).eps for t in (x, result.r))
    batches = zip(
        *(t.split(BATCH) for t in (x.detach(), result.adversarial, result.r)), strict=True
    )
    for here, adversarial, r in batches:
        off = (adversarial.double() - r - here).flatten(1).abs().amax(dim=1)
        slack = last * (adversarial.double().abs() + r.abs()).flatten(1).amax(dim=1)
        if bool((off > slack).any()):
            raise ValueError(
                "x must be the images that were attacked, result.adversarial - result.r; it "
                f"differs from them by up to {float(off.max()):.3g}"
            )


def check_over(over: str, x: Tensor, y: Tensor | None) -> None:
    """Check the convention of the mean, and the labels it needs."""
    one_of("over", over, OVER)
    if over == "correct" and y is None:
        raise ValueError("over='correct' needs the true labels y; got None")
    if y is not None:
        check_labels(y, len(x))
