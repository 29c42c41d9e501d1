"""DeepFool: the smallest step across the nearest decision boundary, batched."""

import torch
from torch import Tensor
from tqdm import tqdm

from jacfast.attacks.fgsm import check_box
from jacfast.attacks.result import DeepFoolResult
from jacfast.ops import Nearest, deepfool_candidate
from jacfast.quiet import Model, check_input, check_labels, logits_of, quiet
from jacfast.vjp import BATCH_UP_TO, pull_back

POINTS = ("overshot", "plain")


def deepfool(
    model: Model,
    x: Tensor,
    y: Tensor | None = None,
    *,
    candidates: int | None = 10,
    overshoot: float = 0.02,
    max_iter: int = 50,
    floor: float = 0.0,
    clip: tuple[float, float] | None = None,
    linearize: str = "overshot",
    test: str = "overshot",
    batch_size: int | None = None,
    progress: bool = False,
) -> DeepFoolResult:
    """Find for each sample a small L2 perturbation that changes the predicted class.

    With k0 the class to leave, ``f_k = z_k - z_k0`` and ``w_k = df_k/dx``, while the class is still
    k0: ``r += (d + floor) w_l / ||w_l||`` with ``l = argmin_k d_k``, ``d_k = |f_k| / ||w_k||``. The
    adversarial input is ``clip(x + (1 + overshoot) r)``.

    DeepFool's implementations differ in five choices; each is an argument here. The defaults are
    those of the authors' Python code without its added length: predicted label, ten candidates
    fixed by the clean logits, linearised and tested at the overshot point, no clipping.

    The model is evaluated in eval mode and left as it was, no parameter receives a gradient, and
    samples that are fooled leave the batch. A step at or below eps ||x||, too short to be resolved
    (at an exact tie of two logits, say), is lengthened to 2 eps ||x||, with the machine epsilon of
    x or of the logits, whichever is coarser.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself. Logits, not probabilities.
        x: [N, ...], floating point.
        y: [N] int64, the class to leave; default: the predicted one. A sample that the model does
            not classify as `y` is already fooled: r = 0.
        candidates: how many classes are considered, counting k0, largest clean logits first;
            None: all. Each costs one vector-Jacobian product per iteration.
        overshoot: the relative length added to r, >= 0.
        max_iter: steps at most, >= 1.
        floor: a length added to every step (1e-4 in several implementations), in units of x.
        clip: the box of valid inputs, in which x must lie, or None.
        linearize: where the model is linearised: ``overshot``, x + (1 + overshoot) r, or ``plain``,
            x + r (the paper). Where it differs from `test`, an iteration costs one more forward.
        test: where the class is looked at: ``overshot`` or ``plain`` (the paper's algorithm 2).
        batch_size: samples at a time; default all.
        progress: show a progress bar over the batches.

    Returns:
        A `DeepFoolResult`. A sample with a logit that is NaN or +inf, or with no usable gradient,
        is reported as ``stalled`` (and not ``success``); the others finish. A class whose logit is
        -inf is never the nearest.

    Raises:
        TypeError: x is not floating point, or y not int64. ValueError: a shape or value is wrong.

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016 (arXiv 1511.04599), algorithm 2.
    """
    check_input(x)
    check_box(clip, x)
    if y is not None:
        check_labels(y, len(x))
    _check(candidates, overshoot, max_iter, floor, linearize, test, batch_size)
    step = batch_size or len(x)
    starts = tqdm(range(0, len(x), step), desc="deepfool", unit="batch", disable=not progress)
    with quiet(model):
        parts = []
        for start in starts:
            part = slice(start, start + step)
            run = _Run(model, x[part].detach(), None if y is None else y[part], candidates)
            run.overshoot, run.floor, run.clip = overshoot, floor, clip
            parts.append(run.attack(max_iter, linearize, test))
    return DeepFoolResult.cat(parts)


class _Run:
    """One batch: the state of every sample, and the loop over those not yet fooled."""

    overshoot: float
    floor: float
    clip: tuple[float, float] | None

    def __init__(self, model: Model, x: Tensor, y: Tensor | None, candidates: int | None) -> None:
        self.model, self.x = model, x
        with torch.no_grad():
            clean = logits_of(model, x.clone())  # a copy: the model may work in place
        if clean.shape[1] < 2:
            raise ValueError(
                f"model must return at least 2 logits per sample; got {clean.shape[1]}"
            )
        if y is not None:
            check_labels(y, *clean.shape)
        self.origin = clean.argmax(dim=1) if y is None else y
        count = clean.shape[1] if candidates is None else min(candidates, clean.shape[1])
        floor = torch.finfo(clean.dtype).min  # above the origin, also for a class at -inf
        others = clean.clamp(min=floor).scatter(1, self.origin[:, None], float("-inf"))
        self.labels = others.topk(count - 1, dim=1).indices
        self.r = torch.zeros_like(x)
        shape = (len(x),)
        self.iterations = torch.zeros(shape, dtype=torch.int64, device=x.device)
        self.vjps = torch.zeros_like(self.iterations)
        self.stalled = torch.zeros(shape, dtype=torch.bool, device=x.device)
        size = x.flatten(1).norm(dim=1)
        eps = max(torch.finfo(x.dtype).eps, torch.finfo(clean.dtype).eps)
        self.resolution = eps * torch.where(size > 0, size, 1)

    def attack(self, max_iter: int, linearize: str, test: str) -> DeepFoolResult:
        active = torch.arange(len(self.x), device=self.x.device)
        for _ in range(max_iter):
            leaf, logits = self._forward(active, test, graph=linearize == test)
            running = self._running(active, logits)
            left = active[running]  # the one look at the device of an iteration
            if len(left) == 0:
                break
            finished = len(active) - len(left)
            if linearize != test or finished * self.labels.shape[1] > len(left):
                # finished samples would cost a backward pass per candidate: a fresh forward is less
                active = left
                leaf, logits = self._forward(active, linearize, graph=True)
                running = torch.ones_like(running[: len(active)])
            self._step(active, leaf, logits, running)
            active = active[running & ~self.stalled[active]]
        return self._result()

    def _point(self, active: Tensor, kind: str) -> Tensor:
        scale = 1 + self.overshoot if kind == "overshot" else 1.0
        moved = self.x[active] + scale * self.r[active]
        return moved if self.clip is None else moved.clamp(*self.clip)

    def _forward(self, active: Tensor, kind: str, graph: bool) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(graph):
            leaf = self._point(active, kind).requires_grad_(graph)
            return leaf, logits_of(self.model, leaf)

    def _running(self, active: Tensor, logits: Tensor) -> Tensor:
        """Say which samples keep their class; those whose logits are NaN or +inf stall."""
        sane = (logits < float("inf")).all(dim=1)
        self.stalled[active] |= ~sane
        return sane & (logits.argmax(dim=1) == self.origin[active])

    def _step(self, active: Tensor, leaf: Tensor, logits: Tensor, running: Tensor) -> None:
        """Add to r the step onto the nearest boundary, for the running samples of `active`."""
        origin, labels = self.origin[active], self.labels[active]
        nearest = Nearest.empty(len(active), leaf[0].numel(), leaf)
        z = logits.detach()
        f = z.gather(1, labels) - z.gather(1, origin[:, None])
        at_once = max(1, BATCH_UP_TO // len(active))
        for start in range(0, labels.shape[1], at_once):
            part = labels[:, start : start + at_once].T
            vectors = torch.zeros(len(part), *z.shape, dtype=z.dtype, device=z.device)
            vectors.scatter_(2, part[..., None], 1.0)
            vectors.scatter_(2, origin.expand_as(part)[..., None], -1.0)
            for j, w in enumerate(pull_back(logits, leaf, vectors, create_graph=False)):
                deepfool_candidate(w, f[:, start + j].to(w.dtype), part[j], nearest)
        self.vjps[active] += labels.shape[1]
        self.stalled[active] |= running & (nearest.winner < 0)
        self.iterations[active] += running & (nearest.winner >= 0)
        self.r[active] += self._length(active, nearest, running).view_as(leaf)

    def _length(self, active: Tensor, nearest: Nearest, running: Tensor) -> Tensor:
        """Return the step [n, D], lengthened where x could not resolve it, 0 where not running."""
        short = self.resolution[active]
        unresolved = nearest.distance + self.floor <= short
        distance = torch.where(unresolved, 2 * short, nearest.distance)
        step = nearest._replace(distance=distance).step(self.floor)
        return torch.where(running[:, None], step, 0)

    @torch.no_grad()
    def _result(self) -> DeepFoolResult:
        everyone = torch.arange(len(self.x), device=self.x.device)
        adversarial = self._point(everyone, "overshot")
        r = adversarial - self.x
        logits = logits_of(self.model, adversarial)
        label = logits.argmax(dim=1)
        sane = (logits < float("inf")).all(dim=1)
        return DeepFoolResult(
            adversarial=adversarial,
            r=r,
            norm=torch.linalg.vector_norm(r.flatten(1), dim=1),
            iterations=self.iterations,
            success=sane & (label != self.origin),
            before=self.origin,
            label=label,
            stalled=self.stalled,
            vjps=self.vjps,
        )


def _check(candidates, overshoot, max_iter, floor, linearize, test, batch_size) -> None:
    if candidates is not None and candidates < 2:
        raise ValueError(
            f"candidates must be >= 2 (it counts the class to leave); got {candidates}"
        )
    for name, value in (("overshoot", overshoot), ("floor", floor)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be finite and >= 0; got {value}")
    for name, count in (("max_iter", max_iter), ("batch_size", batch_size)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be >= 1; got {count}")
    for name, point in (("linearize", linearize), ("test", test)):
        if point not in POINTS:
            raise ValueError(f"{name} must be one of {', '.join(POINTS)}; got {point!r}")
