"""The report: every attack on the samples, and what they say together."""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.box import Clip, box_of
from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.gradient import told_once
from jacfast.attacks.minimal_norm import LEAST
from jacfast.calling import AnyModel, Further, say_not_finite, takes_model
from jacfast.evaluation.accuracies import checked_sizes
from jacfast.evaluation.predict import BATCH, batches, classified
from jacfast.evaluation.rho import sizes
from jacfast.ops.checks import source
from jacfast.progress import watch
from jacfast.robustness.attacked import Attacked, Choices, attack_all
from jacfast.robustness.result import RobustnessReport

SHARES = (0.01, 0.03, 0.1)  # of the images' median length: the sizes where none are given


@takes_model
def robustness_report(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    *,
    p: float = 2.0,
    eps: Sequence[float] | None = None,
    budget: int = 100,
    steps: int = 20,
    restarts: int = 5,
    clip: Clip = (0.0, 1.0),
    batch_size: int = BATCH,
    generator: torch.Generator | None = None,
    progress: bool = False,
    **further: Unpack[Further],
) -> RobustnessReport:
    """Attack a classifier in several ways; report each, the worst case, and what may be hidden.

    On all samples: accuracy, and rho_adv by DeepFool, as `rho_adv` has it, without a box. On those
    that are classified correctly, inside the box: `deepfool`, `minimal_norm`, and at each eps `pgd`
    on the cross-entropy, with random starts, and once with logits x 100. The
    *worst case* of a sample is the nearest image that any of these found; the robust accuracy at
    eps is the share of samples that are classified correctly and have none within eps.

    An upper bound, as all that attacks can give: there may be nearer images. That gradients hide
    them shows in six signs (`jacfast.robustness.Sign`), each a share of the samples that are
    classified correctly, and a finding beyond a limit: zero gradients; a plain cross-entropy that
    is saturated; more success with logits x 100; PGD that finds what `minimal_norm` does not;
    success that grows with random starts; logits that differ from call to call.

    Passes of a sample: those of two runs of DeepFool, `budget`, and for each eps ``4 steps``, or
    ``2 (restarts + 1) steps`` where the first start finds nothing.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself; evaluated in eval mode and
            left as it was.
        x: [N, ...], floating point, in the box.
        y: [N] int64, true labels.
        p: the norm of all changes: 2 or ``inf``.
        eps: sizes in the p-norm and the units of x, one at least, each > 0. Default: 1, 3 and 10%
            of the median ``||x||_p``, rounded to two digits, which are the same for every model of
            these images.
        budget: passes of `minimal_norm`.
        steps: steps of each run of PGD.
        restarts: random starts of PGD at each eps.
        clip: (low, high), the box of valid inputs, or None. Numbers, or tensors that broadcast to a
            sample.
        batch_size: samples at a time.
        generator: of the random starts, on the device of x. Default: a new one, seeded with 0: the
            same call makes the same report.
        progress: show a progress bar over the batches.

    Returns:
        A `RobustnessReport`. ``print`` shows it as a table with the signs found.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or value is wrong, a sample
            is all zero, or none is classified as its label.

    Source: Carlini et al. 2019 (arXiv 1902.06705) and Athalye, Carlini & Wagner 2018 (arXiv
    1802.00420), section 3.1, for the signs; Croce & Hein 2020 (arXiv 2003.01690) for the worst case
    over attacks.
    """
    checks.one_of("p", p, (2, math.inf))
    checks.count("budget", budget, LEAST)
    checks.count("steps", steps)
    checks.count("restarts", restarts)
    progress = checks.flag("progress", progress)
    source("generator", generator)
    box_of(clip, x).check(x)
    length = sizes(x, p)
    choices = Choices(
        p=float(p),
        eps=relative(x, p, SHARES) if eps is None else _given(eps),
        budget=budget,
        steps=steps,
        restarts=restarts,
        clip=clip,
    )
    generator = generator or torch.Generator(x.device).manual_seed(0)
    right = classified(model, x, y, batch_size)
    here = right.nonzero()[:, 0]
    if len(here) == 0:
        raise ValueError(f"model must classify one sample as its label at least; got 0 of {len(x)}")
    some, labels = batches(model.rows(here), x[here], batch_size), y[here].split(int(batch_size))
    parts = list(zip(some, labels, strict=True))
    shown = watch(parts, desc="robustness", unit="batch", disable=not progress)
    with told_once():
        # with no box at all it would warn of grey values, which the box that was given may allow
        paper = deepfool(model, x, p=p, clip=(-math.inf, math.inf), batch_size=batch_size)
        say_not_finite(model, x, paper.stalled)
        attacked = [
            attack_all(call, part, label, choices, generator) for (call, part), label in shown
        ]
    return RobustnessReport(
        choices=choices,
        right=right.cpu(),
        rho_adv=float((paper.norm.double() / length).mean()),
        attacked=Attacked.cat(attacked),
    )


def relative(x: Tensor, p: float, shares: Sequence[float]) -> tuple[float, ...]:
    """Return sizes that are shares of the median ``||x||_p``, to two digits."""
    median = float(sizes(x, p).nanmedian())
    return tuple(float(f"{share * median:.2g}") for share in shares)


def _given(eps: Sequence[float]) -> tuple[float, ...]:
    found = checked_sizes("eps", eps)
    for each in found:
        checks.above_zero("eps", each)
    return tuple(sorted({float(each) for each in found}))
