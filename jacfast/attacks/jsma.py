"""The attack by Jacobian saliency maps: few pixels, changed much."""

import dataclasses
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.attack import attack
from jacfast.attacks.box import Clip, Size, box_of, length_of
from jacfast.attacks.gradient import (
    check_classes,
    counting,
    criterion_of,
    finite_rows,
    forward,
    look,
)
from jacfast.attacks.losses import Criterion, cotangent
from jacfast.attacks.saliency import best_pair, best_pixel
from jacfast.calling import AnyModel, Call, Further, quiet, takes_model
from jacfast.lean import lean

Outputs = Literal["logits", "probabilities"]
OUTPUTS: tuple[str, ...] = get_args(Outputs)


@attack(0)
@takes_model
def jsma(
    model: AnyModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    target: Tensor | None = None,
    eps: Size = 1.0,
    steps: int,
    pixels: int = 1,
    outputs: Outputs = "logits",
    stop: bool = True,
    clip: Clip = (0.0, 1.0),
    **further: Unpack[Further],
) -> Tensor:
    """Add eps to the pixel, or the two, of greatest saliency, step by step, and clip.

    A pixel here is an entry of x. With ``a = d z_t / dx``, t the target, and ``b = d sum_{k != t}
    z_k / dx``, the saliency of pixel i is ``a_i |b_i|`` where ``a_i > 0`` and ``b_i < 0``, that of
    a pair ``(a_i + a_j) |b_i + b_j|`` where the sums have these signs; others do not qualify, nor
    does a pixel at the upper face of the box. Ties go to the lowest index. A sample in which
    nothing qualifies stays as it is.

    Untargeted, the class y is to be left: then a and b are the derivatives of ``-z_y`` and of
    ``-sum_{k != y} z_k`` (Wiyatno & Xu, NT-JSMA).

    The attack "1 pixel, 80 epochs" of Jakubovitz & Giryes is, as far as their paper says,
    ``pixels=1, steps=80, outputs="probabilities", stop=False``. The model is evaluated in eval mode
    and left as it was.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself.
        x: [N, ...], floating point.
        y: [N] int64, the class to leave; default: the predicted one. Excludes `target`.
        target: [N] int64, the class to reach; needed for pairs.
        eps: the change of a pixel, > 0, in the units of x. A number, or a tensor that broadcasts to
            x: [C, 1, 1] holds one for each channel, [N, 1, 1, 1] one for each sample.
        steps: at most, >= 1; each costs two vector-Jacobian products, of probabilities one.
        pixels: 1; a pixel may be chosen again until it is clipped. Or 2: pairs, as in the paper;
            each pixel once. A fraction gamma of the pixels is ``steps = D gamma / 2``.
        outputs: whose derivatives: those of the ``logits`` z, or of the softmax, the
            ``probabilities`` (there b = -a, and the saliency is ``a^2``).
        stop: a sample that is classified as wanted is finished; else all steps run.
        clip: (low, high), the box of valid inputs, in which x must lie but for roundings, or None.
            Numbers, or tensors that broadcast to a sample.

    Returns:
        The perturbed batch, without a graph. Memory beside the model's: O(N D); pairs are searched
        in blocks, among the pixels that can be part of the best one, never in a D x D matrix.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or value is wrong.

    Source: Papernot et al. 2016 (arXiv 1511.07528), eq. 8 and algorithm 3, increasing features;
    Wiyatno & Xu 2018 (arXiv 1808.07945).
    """
    eps = length_of("eps", eps, x, zero=False)
    box = box_of(clip, x)
    box.check(x)
    checks.count("steps", steps)
    checks.one_of("pixels", pixels, (1, 2))
    checks.one_of("outputs", outputs, OUTPUTS)
    stop = checks.flag("stop", stop)
    if pixels == 2 and target is None:
        raise ValueError("pixels=2 needs target, the classes to reach; got None")
    with quiet(model), lean(model), counting(x) as lost:
        wanted = criterion_of(x, y, target, lambda: look(model, x))
        aim = _Aim(model, pixels, outputs, stop)
        return _run(aim, x, wanted, eps, steps, box.high, lost)


@dataclasses.dataclass(frozen=True)
class _Aim:
    model: Call
    pixels: int
    outputs: str
    stop: bool

    def rows(
        self, logits: Tensor, leaf: Tensor, wanted: Criterion, lost: Tensor, here: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a and b, [n, D] in float64 (products of small ones must not vanish)."""
        z = logits.detach()
        if self.outputs == "probabilities":
            # d p_t / dz but for the factor p_t (1 - p_t), which changes no arg-max
            vectors = -cotangent("cross-entropy", z, wanted.labels)[None]
        else:
            own = torch.zeros_like(z).scatter(1, wanted.labels[:, None], 1.0)
            vectors = torch.stack([own, 1 - own])
        vectors = vectors if wanted.targeted else -vectors
        rows = finite_rows(logits, leaf, vectors, lost, here).double()
        return rows[0], rows[1] if len(rows) == 2 else -rows[0]


def _run(
    aim: _Aim, x: Tensor, wanted: Criterion, eps: Size, steps: int, high: Size, lost: Tensor
) -> Tensor:
    flat = x.flatten(1).clone()
    change, top = _entries(eps, x), _entries(high, x)
    free = torch.ones_like(flat, dtype=torch.bool)  # pixels of a pair are taken once
    active = torch.arange(len(x), device=x.device)
    for number in range(steps):
        if len(active) == 0:
            break
        point = flat[active].view(-1, *x.shape[1:])
        leaf, logits = forward(aim.model.rows(active), point)
        if number == 0:
            check_classes(logits, wanted)
        a, b = aim.rows(logits, leaf, wanted[active], lost, active)
        allowed = free[active] & (flat[active] < top[active])
        found, there = (best_pixel if aim.pixels == 1 else best_pair)(a, b, allowed)
        if aim.stop:
            there &= ~wanted[active].met(logits)
        active, found = active[there], found[there]
        for pixel in found.T:
            flat[active, pixel] = torch.minimum(
                flat[active, pixel] + change[active, pixel], top[active, pixel]
            )
            if aim.pixels == 2:
                free[active, pixel] = False
    return flat.view_as(x)


def _entries(size: Size, x: Tensor) -> Tensor:
    """Return the size for each entry of x [N, D]."""
    return torch.as_tensor(size, dtype=x.dtype, device=x.device).expand(x.shape).flatten(1)
