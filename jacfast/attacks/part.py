"""Some samples of a batch, and what an iteration of DeepFool does with them."""

import copy

import torch
from torch import Tensor

from jacfast.attacks.at_once import AtOnce
from jacfast.attacks.search import Search
from jacfast.attacks.walk import Walk
from jacfast.calling import Call, logits_of

GIVEN = ("origin", "labels")
CHANGING = ("iterations", "vjps", "stalled", "running")


class Part:
    """The state of some samples, and an iteration with those that are running.

    Every operation is on all of the samples, and none waits for the device. Nothing of a sample
    that is not running changes, but for the rows that it has cost.

    Args:
        search: of the nearest boundary.
        model, walk: of the samples.
        origin: [n], the class to leave. labels: [n, C], the classes to go to.
        targeted: whether `labels` are to be reached, from whatever class is at the point.
    """

    def __init__(
        self,
        search: Search | AtOnce,
        model: Call,
        walk: Walk,
        origin: Tensor,
        labels: Tensor,
        targeted: bool,
    ) -> None:
        self.search, self.model, self.walk, self.options = search, model, walk, walk.options
        self.origin, self.labels, self.targeted = origin, labels, targeted
        self.iterations = torch.zeros_like(origin)
        self.vjps = torch.zeros_like(origin)
        self.stalled = torch.zeros_like(origin, dtype=torch.bool)
        self.running = torch.zeros_like(self.stalled)

    def __len__(self) -> int:
        return len(self.origin)

    def rows(self, index: Tensor) -> "Part":
        """Return some of the samples, by themselves."""
        part = copy.copy(self)
        part.search, part.model = self.search.rows(), self.model.rows(index)
        part.walk = self.walk.rows(index)
        for name in (*GIVEN, *CHANGING):
            setattr(part, name, getattr(self, name)[index])
        return part

    def put(self, index: Tensor, part: "Part") -> None:
        """Take over what has become of a part of `rows`."""
        for name in CHANGING:
            getattr(self, name)[index] = getattr(part, name)
        self.walk.put(index, part.walk)

    def iterate(self, fooled: bool | None = None) -> None:
        """Take a step with those running samples that are not yet fooled; the others are done."""
        self.step(*self.evaluate(fooled))

    def evaluate(self, fooled: bool | None = None) -> tuple[Tensor, Tensor]:
        """See which samples go on; return the leaf and the logits of a graph for their step.

        Who is fooled is seen at the model, unless `fooled` says it.
        """
        linearize, test = self.options.linearize, self.options.test
        leaf, logits = self.forward(test, graph=linearize == test)
        self.look(logits, fooled)
        return (leaf, logits) if linearize == test else self.forward(linearize, graph=True)

    def forward(self, kind: str, graph: bool) -> tuple[Tensor, Tensor]:
        """Return the points, as the leaf of a graph where asked, and the logits there."""
        with torch.set_grad_enabled(graph):
            leaf = self.walk.point(kind).requires_grad_(graph)
            return leaf, logits_of(self.model, leaf)

    def look(self, logits: Tensor, fooled: bool | None) -> None:
        """See which samples go on. With logits NaN or +inf they stall."""
        top, label = logits.detach().max(dim=1)
        sane = top < float("inf")
        self.stalled |= self.running > sane
        self.running &= sane
        if fooled is None:
            self.running &= self.held(label)
        self.running &= self.iterations < self.options.steps

    def held(self, label: Tensor) -> Tensor:
        """Say which samples [n] are not fooled where the model sees these classes [n]."""
        return label != self.labels[:, 0] if self.targeted else label == self.origin

    def step(self, leaf: Tensor, logits: Tensor) -> None:
        """Add to r the step onto the nearest boundary, for the running samples."""
        origin = self.origin
        if self.targeted:  # the class at the point, or the next one to the target
            others = logits.detach().scatter(1, self.labels, float("-inf"))
            origin = others.argmax(dim=1)
        nearest, rows = self.search.nearest(
            self.model, leaf, logits, origin, self.labels, self.running
        )
        self.vjps += rows
        moved = self.walk.step(nearest, self.running)
        self.iterations += moved
        self.stalled |= self.running > moved
        self.running.copy_(moved)
