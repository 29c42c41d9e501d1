"""The loop of DeepFool over one batch."""

import torch
from torch import Tensor

from jacfast.attacks.result import DeepFoolResult
from jacfast.attacks.search import Search, largest_others
from jacfast.calling import Call, check_classes, check_labels, logits_of
from jacfast.ops import Nearest

# On a CPU, samples per pass through the model: more of them leave the caches, fewer do not fill the
# threads (benchmarks/README.md, 'Rows at once').
AT_ONCE = 128


class Loop:
    """The state of every sample of a batch, and the loop over those not yet fooled."""

    def __init__(
        self, search: Search, model: Call, x: Tensor, y: Tensor | None, target: Tensor | None
    ) -> None:
        self.search, self.model, self.options = search, model, search.options
        self.x, self.target = x, target
        with torch.no_grad():
            clean = logits_of(self.model, x)
        check_classes(clean)
        for name, labels in (("y", y), ("target", target)):
            if labels is not None:
                check_labels(labels, *clean.shape, name=name)
        self.origin = clean.argmax(dim=1) if y is None else y
        if target is None:
            self.labels = largest_others(clean, self.origin, self.options.candidates)
        else:
            self.labels = target[:, None]
        self.r = torch.zeros_like(x)
        shape = (len(x),)
        self.iterations = torch.zeros(shape, dtype=torch.int64, device=x.device)
        self.vjps = torch.zeros_like(self.iterations)
        self.stalled = torch.zeros(shape, dtype=torch.bool, device=x.device)
        size = self.norm_of(x)
        eps = max(torch.finfo(x.dtype).eps, torch.finfo(clean.dtype).eps)
        self.resolution = eps * torch.where(size > 0, size, 1)

    def norm_of(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x.flatten(1), self.options.p, dim=1)

    def attack(self) -> DeepFoolResult:
        """Step until every sample is fooled, stalled or out of iterations."""
        active = torch.arange(len(self.x), device=self.x.device)
        at_once = AT_ONCE if self.x.device.type == "cpu" else len(active)
        for number in range(self.options.max_iter):
            if len(active) == 0:
                break
            if number == 1:
                self.search.learn(self.x, len(active) * (self.labels.shape[1] - 1))
            active = torch.cat([self._iterate(part) for part in active.split(at_once)])
        return self._result()

    def _iterate(self, active: Tensor) -> Tensor:
        """Take a step with those of these samples that are not yet fooled; return these."""
        linearize, test = self.options.linearize, self.options.test
        leaf, logits = self._forward(active, test, graph=linearize == test)
        running = self._running(active, logits)
        left = active[running]  # the one look at the device of an iteration
        if len(left) == 0:
            return left
        finished = len(active) - len(left)
        if linearize != test or finished * self.labels.shape[1] > len(left):
            # finished samples would cost a backward pass per candidate: a fresh forward is less
            active = left
            leaf, logits = self._forward(active, linearize, graph=True)
            running = torch.ones_like(running[: len(active)])
        self._step(active, leaf, logits, running)
        return left

    def _forward(self, active: Tensor, kind: str, graph: bool) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(graph):
            leaf = self.options.point(self.x[active], self.r[active], kind).requires_grad_(graph)
            return leaf, logits_of(self.model.rows(active), leaf)

    def _running(self, active: Tensor, logits: Tensor) -> Tensor:
        """Say which samples are not where they should be; with logits NaN or +inf they stall."""
        sane = (logits < float("inf")).all(dim=1)
        self.stalled[active] |= ~sane
        return ~self.stalled[active] & ~self._fooled(active, logits.argmax(dim=1))

    def _fooled(self, active: Tensor, label: Tensor) -> Tensor:
        if self.target is None:
            return label != self.origin[active]
        return label == self.target[active]

    def _step(self, active: Tensor, leaf: Tensor, logits: Tensor, running: Tensor) -> None:
        """Add to r the step onto the nearest boundary, for the running samples of `active`."""
        labels = self.labels[active]
        origin = self.origin[active] if self.target is None else logits.argmax(dim=1)
        here = self.model.rows(active)
        nearest, rows = self.search.nearest(here, leaf, logits, origin, labels, running)
        self.vjps[active] += rows
        self.stalled[active] |= running & (nearest.winner < 0)
        self.iterations[active] += running & (nearest.winner >= 0)
        step = self._length(active, nearest, running).view_as(leaf)
        del nearest  # as long as a batch
        self._move(active, step)

    def _length(self, active: Tensor, nearest: Nearest, running: Tensor) -> Tensor:
        """Return the step [n, D], lengthened where x could not resolve it, 0 where not running."""
        short = self.resolution[active]
        unresolved = nearest.distance + self.options.floor <= short
        distance = torch.where(unresolved, 2 * short, nearest.distance)
        step = nearest._replace(distance=distance).step(self.options.floor, self.options.q)
        return torch.where(running[:, None], step, 0)

    def _move(self, active: Tensor, step: Tensor) -> None:
        """Add the step to r; keep r, where asked, inside the box and below the cap."""
        r, options = step.add_(self.r[active]), self.options
        scale = 1 + options.overshoot
        if options.clip_steps:
            x, kind = self.x[active], options.linearize
            r = (options.point(x, r, kind) - x) / (scale if kind == "overshot" else 1.0)
        if options.max_norm is not None:
            size = scale * self.norm_of(r)
            factor = torch.where(size > options.max_norm, options.max_norm / size, 1.0)
            r = r * factor.view(-1, *[1] * (r.dim() - 1))
        self.r[active] = r

    def _result(self) -> DeepFoolResult:
        return self.result_at(self.options.point(self.x, self.r, "overshot"))

    @torch.no_grad()
    def result_at(self, adversarial: Tensor, **changes: Tensor) -> DeepFoolResult:
        """Return the result for these inputs: the class there is evaluated anew."""
        r = adversarial - self.x
        logits = logits_of(self.model, adversarial)
        label = logits.argmax(dim=1)
        sane = (logits < float("inf")).all(dim=1)
        everyone = torch.arange(len(self.x), device=self.x.device)
        fields = {
            "adversarial": adversarial,
            "r": r,
            "norm": self.norm_of(r),
            "iterations": self.iterations,
            "success": sane & self._fooled(everyone, label),
            "before": self.origin,
            "label": label,
            "stalled": self.stalled,
            "vjps": self.vjps,
        }
        return DeepFoolResult(**{**fields, **changes}, p=self.options.p)
