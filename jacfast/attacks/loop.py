"""The loop of DeepFool over one batch."""

import torch
from torch import Tensor

from jacfast.attacks.result import DeepFoolResult
from jacfast.attacks.search import Search, largest_others
from jacfast.attacks.walk import Walk
from jacfast.calling import Call, check_classes, check_labels, logits_of

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
        shape = (len(x),)
        self.iterations = torch.zeros(shape, dtype=torch.int64, device=x.device)
        self.vjps = torch.zeros_like(self.iterations)
        self.stalled = torch.zeros(shape, dtype=torch.bool, device=x.device)
        eps = max(torch.finfo(x.dtype).eps, torch.finfo(clean.dtype).eps)
        self.walk = Walk(x, self.options, eps)

    def attack(self) -> DeepFoolResult:
        """Step until every sample is fooled, stalled or out of iterations.

        A sample leaves the loop fooled as it is evaluated there, among the others that run. The
        result is evaluated as one batch, whose roundings can differ, and a sample that is not
        fooled in it goes on.
        """
        self._run(torch.arange(len(self.x), device=self.x.device))
        result = self._result()
        for _ in range(self.options.steps):
            missed = ~result.success & ~self.stalled & (self.iterations < self.options.steps)
            again = missed.nonzero()[:, 0]
            if len(again) == 0:
                break
            self._run(again, fooled=False)
            result = self._result()
        return result

    def _run(self, active: Tensor, fooled: bool | None = None) -> None:
        """Step with these samples until none of them is left; first with all, if fooled=False."""
        at_once = AT_ONCE if self.x.device.type == "cpu" else len(active)
        for number in range(self.options.steps):
            if len(active) == 0:
                break
            if number == 1:
                self.search.learn(self.x, len(active) * (self.labels.shape[1] - 1))
            active = torch.cat([self._iterate(part, fooled) for part in active.split(at_once)])
            fooled = None

    def _iterate(self, active: Tensor, fooled: bool | None) -> Tensor:
        """Take a step with those of these samples that are not yet fooled; return these.

        Who is fooled is seen at the model, unless `fooled` says it.
        """
        linearize, test = self.options.linearize, self.options.test
        leaf, logits = self._forward(active, test, graph=linearize == test)
        running = self._running(active, logits, fooled)
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
            leaf = self.walk.point(active, kind).requires_grad_(graph)
            return leaf, logits_of(self.model.rows(active), leaf)

    def _running(self, active: Tensor, logits: Tensor, fooled: bool | None) -> Tensor:
        """Say which samples go on; with logits NaN or +inf they stall."""
        sane = (logits < float("inf")).all(dim=1)
        self.stalled[active] |= ~sane
        free = ~self.stalled[active] & (self.iterations[active] < self.options.steps)
        return free if fooled is False else free & ~self._fooled(active, logits.argmax(dim=1))

    def _fooled(self, active: Tensor, label: Tensor) -> Tensor:
        if self.target is None:
            return label != self.origin[active]
        return label == self.target[active]

    def _step(self, active: Tensor, leaf: Tensor, logits: Tensor, running: Tensor) -> None:
        """Add to r the step onto the nearest boundary, for the running samples of `active`."""
        labels = self.labels[active]
        origin = self.origin[active]
        if self.target is not None:  # the class at the point, or the next one to the target
            others = logits.detach().scatter(1, labels, float("-inf"))
            origin = others.argmax(dim=1)
        here = self.model.rows(active)
        nearest, rows = self.search.nearest(here, leaf, logits, origin, labels, running)
        self.vjps[active] += rows
        step, path = self.walk.plan(active, nearest, running)
        del nearest  # as long as a batch
        moved = self.walk.take(active, step, path)
        self.iterations[active] += moved
        self.stalled[active] |= running & ~moved

    def _result(self) -> DeepFoolResult:
        return self.result_at(self.walk.point(slice(None), "overshot"))

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
            "norm": self.walk.norm_of(r),
            "iterations": self.iterations,
            "success": sane & self._fooled(everyone, label),
            "before": self.origin,
            "label": label,
            "stalled": self.stalled,
            "vjps": self.vjps,
        }
        return DeepFoolResult(**{**fields, **changes}, p=self.options.p)
