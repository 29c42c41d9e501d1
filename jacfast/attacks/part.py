"""Some samples of a batch, and what an iteration of DeepFool does with them."""

import copy

import torch
from torch import Tensor

from jacfast.attacks.at_once import AtOnce
from jacfast.attacks.search import Search
from jacfast.attacks.walk import Walk
from jacfast.calling import Call, logits_of

GIVEN = ("origin", "labels")
CHANGING = ("left", "tries", "top", "vjps", "running")


class Part:
    """The state of some samples, and an iteration with those that are running.

    Every operation is on all of the samples, and none waits for the device. Nothing of a sample
    that is not running changes, but for the rows that it has cost and the logit it is looked at.

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
        self.left = torch.full_like(origin, self.options.steps)  # steps, to be taken at most
        self.tries = torch.zeros_like(origin)  # steps, taken or not
        self.vjps = torch.zeros_like(origin)  # gradient rows
        self.top = torch.zeros_like(origin, dtype=walk.x.dtype)  # the largest logit
        self.running = torch.zeros_like(origin, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.origin)

    @property
    def iterations(self) -> Tensor:
        """How many steps each sample has taken [n]."""
        return self.options.steps - self.left

    @property
    def stalled(self) -> Tensor:
        """Which samples [n] could not take a step; they have tried that once."""
        return self.tries > self.iterations

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

    def evaluate(self, fooled: bool | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """See which samples go on; return what `step` takes.

        Who is fooled is seen at the model, unless `fooled` says it.
        """
        linearize, test = self.options.linearize, self.options.test
        leaf, logits = self.forward(test, graph=linearize == test)
        label = self.look(logits, fooled)
        if linearize != test:
            return *self.forward(linearize, graph=True), None
        return leaf, logits, label if fooled is None else None

    def forward(self, kind: str, graph: bool) -> tuple[Tensor, Tensor]:
        """Return the points, as the leaf of a graph where asked, and the logits there."""
        with torch.set_grad_enabled(graph):
            leaf = self.walk.point(kind).requires_grad_(graph)
            return leaf, logits_of(self.model, leaf)

    def look(self, logits: Tensor, fooled: bool | None) -> Tensor:
        """See which samples go on; return their classes.

        With logits NaN or +inf the class says nothing. Such a sample stalls at its step: at this
        one, or, taken for fooled here, at that of the next run, as the result is not.
        """
        self.top, label = logits.detach().max(dim=1)
        if fooled is None:
            self.running &= self.held(label)
        return label

    def held(self, label: Tensor) -> Tensor:
        """Say which samples [n] are not fooled where the model sees these classes [n]."""
        return label != self.labels[:, 0] if self.targeted else label == self.origin

    def step(self, leaf: Tensor, logits: Tensor, label: Tensor | None = None) -> Tensor | int:
        """Add to r the step onto the nearest boundary, for the running samples; return its rows.

        So many gradient rows each sample has cost, [n] or all alike: whoever calls adds them up.

        Those with logits NaN or +inf where they were looked at do not move.

        Args:
            leaf, logits: the graph.
            label: [n], the classes at these logits, of which none is the target of a sample that
                runs; looked for, if not given.
        """
        origin = self.origin
        if self.targeted:  # the class at the point, or the next one to the target
            origin = self._nearest_other(logits) if label is None else label
        nearest, rows = self.search.nearest(
            self.model, leaf, logits, origin, self.labels, self.running
        )
        self.tries += self.running
        self.walk.step(nearest, self.top, self.running)
        self.left.add_(self.running, alpha=-1)
        self.running.logical_and_(self.left)
        return rows

    def _nearest_other(self, logits: Tensor) -> Tensor:
        """Return the likeliest classes [n] but the targets."""
        return logits.detach().scatter(1, self.labels, float("-inf")).argmax(dim=1)
