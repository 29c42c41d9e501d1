"""Some samples of a batch, and what an iteration of DeepFool does with them."""

import copy

import torch
from torch import Tensor

from jacfast.attacks.at_once import AtOnce
from jacfast.attacks.search import Search
from jacfast.attacks.walk import Walk
from jacfast.calling import Call, logits_of

CHANGING = ("left", "top", "vjps", "going")


class Part:
    """The state of some samples, and an iteration with those that are running.

    Every operation is on all of the samples, and none waits for the device. Nothing of a sample
    that is not running changes, but for the rows that it has cost and the logit it is looked at.

    Args:
        search: of the nearest boundary.
        model, walk: of the samples.
        classes: [n, C + 1], the classes to go to; the last is the one to leave.
        others: [n, K], inf, but -inf for a class that is to be reached, the only one to go to, from
            whatever class is at the point; None if a class is to be left.
        kind: of the logits, which need not be that of x.
    """

    def __init__(
        self,
        search: Search | AtOnce,
        model: Call,
        walk: Walk,
        classes: Tensor,
        others: Tensor | None,
        kind: torch.dtype,
    ) -> None:
        self.search, self.model, self.walk, self.options = search, model, walk, walk.options
        self.classes, self.others = classes, others
        self.vjps = torch.zeros_like(self.origin)  # gradient rows
        self.top = torch.zeros_like(self.origin, dtype=kind)  # the largest logit
        # [n, 2], counted in one operation: who tries a step, and who takes it; how many are left
        self.going = classes.new_zeros(len(classes), 2, dtype=torch.bool)
        self.left = torch.full_like(self.going, self.options.steps, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def labels(self) -> Tensor:
        """The classes to go to [n, C]."""
        return self.classes[:, :-1]

    @property
    def origin(self) -> Tensor:
        """The class to leave [n]."""
        return self.classes[:, -1]

    @property
    def running(self) -> Tensor:
        """Which samples run [n]."""
        return self.going[:, 0]

    @property
    def iterations(self) -> Tensor:
        """How many steps each sample has taken [n]."""
        return self.options.steps - self.left[:, 1]

    @property
    def stalled(self) -> Tensor:
        """Which samples [n] could not take a step; they have tried that once."""
        return self.left[:, 0] < self.left[:, 1]

    def rows(self, index: Tensor) -> "Part":
        """Return some of the samples, by themselves."""
        part = copy.copy(self)
        part.search, part.model = self.search.rows(index), self.model.rows(index)
        part.walk = self.walk.rows(index)
        for name in ("classes", *CHANGING):
            setattr(part, name, getattr(self, name)[index])
        part.others = None if self.others is None else self.others[index]
        return part

    def put(self, index: Tensor, part: "Part") -> None:
        """Take over what has become of a part of `rows`."""
        for name in CHANGING:
            getattr(self, name)[index] = getattr(part, name)
        self.walk.put(index, part.walk)

    def evaluate(self, fooled: bool | None = None) -> tuple[Tensor, Tensor, bool]:
        """See which samples go on; return what `step` takes.

        Who is fooled is seen at the model, unless `fooled` says it.
        """
        linearize, test = self.options.linearize, self.options.test
        leaf, logits = self.forward(test, graph=linearize == test)
        self.look(logits, fooled)
        if linearize != test:
            return *self.forward(linearize, graph=True), False
        return leaf, logits, fooled is None

    def forward(self, kind: str, graph: bool) -> tuple[Tensor, Tensor]:
        """Return the points, as the leaf of a graph where asked, and the logits there."""
        with torch.set_grad_enabled(graph):
            leaf = self.walk.point(kind).requires_grad_(graph)
            return leaf, logits_of(self.model, leaf, own=not graph)

    def look(self, logits: Tensor, fooled: bool | None) -> None:
        """See which samples go on; with targets the classes that are left are those here.

        With logits NaN or +inf the class says nothing. Such a sample stalls at its step: at this
        one, or, taken for fooled here, at that of the next run, as the result is not.
        """
        self.top = logits.new_empty(len(self))
        label = torch.empty_like(self.origin) if self.others is None else self.origin
        torch.max(logits.detach(), dim=1, out=(self.top, label))
        if fooled is None:
            self.running.logical_and_(self.held(label))

    def held(self, label: Tensor) -> Tensor:
        """Say which samples [n] are not fooled where the model sees these classes [n]."""
        return label == self.origin if self.others is None else label != self.labels[:, 0]

    def step(self, leaf: Tensor, logits: Tensor, seen: bool = False) -> Tensor | int:
        """Add to r the step onto the nearest boundary, for the running samples; return its rows.

        So many gradient rows each sample has cost, [n] or all alike: whoever calls adds them up.

        Those with logits NaN or +inf where they were looked at do not move.

        Args:
            leaf, logits: the graph.
            seen: whether these logits were looked at, and no sample runs that has its target.
        """
        if self.others is not None and not seen:  # the class here, or the next one to the target
            torch.argmax(torch.minimum(logits.detach(), self.others), dim=1, out=self.origin)
        nearest, rows = self.search.nearest(self.model, leaf, logits, self.classes, self.running)
        self.walk.step(nearest, self.top, self.going)
        self.left.add_(self.going, alpha=-1)
        torch.logical_and(self.going[:, 1], self.left[:, 1], out=self.running)
        return rows
