"""The loop of DeepFool over one batch."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from jacfast.attacks.at_once import AtOnce
from jacfast.attacks.deepfool_result import DeepFoolResult
from jacfast.attacks.masked import run_masked
from jacfast.attacks.part import Part
from jacfast.attacks.search import Search, largest_others
from jacfast.attacks.walk import Walk
from jacfast.calling import Call, check_classes, check_labels, classes_of, compiled, logits_of
from jacfast.calling.parts import BYTES, Largest

# On a CPU, samples per pass through the model, at most: more of them leave the caches, fewer do not
# fill the threads (benchmarks/README.md, 'Rows at once').
AT_ONCE = 128
# On a GPU, entries of the gradient rows of a batch up to which all are kept: 1 GB in float32, and
# once more while they are joined, of the 12 to 80 GB of a card.
ROOM = 2**28


class Loop:
    """The state of every sample of a batch, and the loop over those not yet fooled.

    On a CPU samples that are done leave the batch at once, and candidates are skipped where the
    bounds allow it. On a GPU each would be a wait for the device: there `run_masked` is the loop,
    where all rows fit. `masked` chooses in the place of the device of x.
    """

    def __init__(
        self,
        search: Search,
        model: Call,
        x: Tensor,
        y: Tensor | None,
        target: Tensor | None,
        masked: bool | None = None,
    ) -> None:
        self.search, self.model, self.options, self.x = search, model, search.options, x
        clean, self.at_once = self._look(x)
        check_classes(clean)
        for name, given in (("y", y), ("target", target)):
            if given is not None:
                check_labels(given, *clean.shape, name=name)
        self.origin = clean.argmax(dim=1) if y is None else y
        if target is None:
            labels = largest_others(clean, self.origin, self.options.candidates)
        else:
            labels = target[:, None]
        masked = x.device.type != "cpu" if masked is None else masked
        self.masked = masked and (1 + labels.shape[1]) * x.numel() <= ROOM
        if self.masked:
            labels = labels.sort(dim=1).values  # of equal distances the first wins
        classes = torch.cat([labels, self.origin[:, None]], dim=1)
        eps = max(torch.finfo(x.dtype).eps, torch.finfo(clean.dtype).eps)
        self.walk = Walk(x, self.options, eps)
        others = None
        if target is not None:
            others = torch.full_like(clean, math.inf).scatter_(1, labels, -math.inf)
        finder: Search | AtOnce = search
        if self.masked:
            finder = AtOnce(self.options, x, clean, classes, same=target is None)
        self.all = Part(finder, model, self.walk, classes, others, clean.dtype)

    @torch.no_grad()
    def _look(self, x: Tensor) -> tuple[Tensor, int]:
        """Return the logits at x, and how many samples are to pass through the model at a time."""
        if x.device.type != "cpu":
            return logits_of(self.model, x), len(x)
        if compiled(self.model):  # it would be compiled again for the mode
            return logits_of(self.model, x), AT_ONCE
        with Largest(x) as largest:
            clean = logits_of(self.model, x)
        return clean, max(1, min(AT_ONCE, BYTES * len(x) // max(1, largest.bytes)))

    def attack(self) -> DeepFoolResult:
        """Step until every sample is fooled, stalled or out of iterations.

        A sample leaves the loop fooled as it is evaluated there, among the others that run. The
        result is evaluated as one batch, whose roundings can differ, and a sample that is not
        fooled in it goes on.
        """
        self._run(torch.arange(len(self.x), device=self.x.device))
        result = self._result()
        for _ in range(self.options.steps):
            missed = ~result.success & ~self.all.stalled
            again = (missed & (self.all.iterations < self.options.steps)).nonzero()[:, 0]
            if len(again) == 0:
                break
            self._run(again, fooled=False)
            result = self._result()
        return result

    def _run(self, active: Tensor, fooled: bool | None = None) -> None:
        """Step with these samples until none of them is left; first with all, if fooled=False."""
        self.all.running.zero_()  # of a run before, those that are out of steps
        self.all.running[active] = True
        if self.masked:
            run_masked(self.all, active, fooled)
            return
        for number in range(self.options.steps):
            if len(active) == 0:
                break
            if number == 1:
                self.search.learn(self.x, len(active) * (self.all.labels.shape[1] - 1))
            active = torch.cat([self._iterate(part, fooled) for part in active.split(self.at_once)])
            fooled = None

    def _iterate(self, active: Tensor, fooled: bool | None) -> Tensor:
        """Take a step with those of these samples that are not yet fooled; return these."""
        linearize, test = self.options.linearize, self.options.test
        with self._part(active) as part:
            leaf, logits = part.forward(test, graph=linearize == test)
            part.look(logits, fooled)
            left = active[part.running]  # the one look at the device of an iteration
            finished = len(active) - len(left)
            # finished samples would cost a backward pass per candidate: a fresh forward is less
            fresh = linearize != test or finished * part.labels.shape[1] > len(left)
            if len(left) and not fresh:
                part.vjps += part.step(leaf, logits)
        del leaf, logits
        if len(left) and fresh:
            with self._part(left) as part:
                part.vjps += part.step(*part.forward(linearize, graph=True))
        return left

    @contextlib.contextmanager
    def _part(self, active: Tensor) -> Iterator[Part]:
        """Give these samples by themselves, and take over what becomes of them."""
        whole = len(active) == len(self.all)
        part = self.all if whole else self.all.rows(active)
        yield part
        if not whole:
            self.all.put(active, part)

    def _result(self) -> DeepFoolResult:
        return self.result_at(self.walk.point("overshot"))

    @torch.no_grad()
    def result_at(self, adversarial: Tensor, **changes: Tensor) -> DeepFoolResult:
        """Return the result for these inputs: the class there is evaluated anew."""
        r = adversarial - self.x
        label = classes_of(logits_of(self.model, adversarial))
        fields = {
            "adversarial": adversarial,
            "r": r,
            "norm": self.walk.norm_of(r),
            "iterations": self.all.iterations,
            "success": (label >= 0) & ~self.all.held(label),
            "before": self.origin,
            "label": label,
            "stalled": self.all.stalled,
            "vjps": self.all.vjps,
        }
        radius = math.inf if self.options.max_norm is None else self.options.max_norm
        return DeepFoolResult(**{**fields, **changes}, p=self.options.p, radius=radius)
