"""The search for the shortest perturbation: a race of classes, then cuts around the best point."""

import torch
from torch import Tensor

from jacfast import cotangents
from jacfast.attacks.first_cuts import LOOK, first_cuts
from jacfast.attacks.frame import Frame
from jacfast.attacks.gradient import finite_rows, forward
from jacfast.attacks.lanes import Lanes
from jacfast.attacks.loop import AT_ONCE
from jacfast.attacks.losses import Criterion, sure
from jacfast.calling import Call

RACE = 0.5  # of the budget, rows at x included
PATIENCE = 8  # looks without a gain, after which a sample leaves


class Hunt:
    """A batch of samples, the passes that each has cost, and how often its gradient was lost.

    All spend the same until they leave, so that a sample's result does not depend on the others.
    Those that are as wanted before anything is done, `done` [N], have rows at x and leave.
    """

    def __init__(self, model: Call, frame: Frame, wanted: Criterion, done: Tensor) -> None:
        self.model, self.frame, self.wanted, self.done = model, frame, wanted, done
        self.forwards = torch.zeros(len(done), dtype=torch.int64, device=done.device)
        self.backwards, self.lost = (torch.zeros_like(self.forwards) for _ in range(2))

    def run(
        self,
        leaf: Tensor,
        logits: Tensor,
        budget: int,
        candidates: int | None,
        start: Tensor | None,
    ) -> Lanes:
        """Return the lane of each sample's shortest r, within `budget` passes from here on.

        Args:
            leaf, logits: the graph of the samples as they are; its forward pass is paid.
            candidates, start: as of `minimal_norm`.
        """
        race = int(RACE * budget)
        lanes, spent = first_cuts(
            self.frame, leaf, logits, self.wanted, budget, race, candidates, self.lost
        )
        self.backwards += spent
        each = len(lanes.sample) // len(self.done)
        if start is not None:
            self._begin_at(start, lanes, each)
            spent += LOOK
        if each > 1:
            rounds = (race - spent) // (LOOK * each)
            self._run(lanes, rounds, race=True)
            spent += rounds * LOOK * each
            lanes = self._winners(lanes, each)
        self._run(lanes, (budget - spent) // LOOK, race=False)
        return lanes

    def _begin_at(self, start: Tensor, lanes: Lanes, each: int) -> None:
        """Look at the points `start` [N, ...], for the nearest lane of each sample."""
        left = (~self.done).nonzero()[:, 0]
        if len(left):
            some = lanes[left * each]
            self._look(some, self.frame.way(left, start[left]), race=False)
            lanes[left * each] = some

    def _run(self, lanes: Lanes, rounds: int, race: bool) -> None:
        """Look so often where the cuts lead; in no race, samples leave that gain no more."""
        active = (~self.done[lanes.sample]).nonzero()[:, 0]
        for _ in range(rounds):
            if not race:
                active = active[lanes.stale[active] < PATIENCE]
            if len(active) == 0:
                break
            at_once = AT_ONCE if active.device.type == "cpu" else len(self.done)
            for part in active.split(at_once):
                some = lanes[part]
                self._look(some, some.aim(self.frame.beyond(some, race)), race)
                lanes[part] = some

    def _winners(self, lanes: Lanes, each: int) -> Lanes:
        """Return the lane of each sample that has found the shortest r, or has the least to go."""
        ahead = self.frame.length(self.frame.shortest(lanes)[0]).view(-1, each)
        size = lanes.size.view(-1, each)
        best = torch.where(size.isfinite().any(dim=1), size.argmin(dim=1), ahead.argmin(dim=1))
        return lanes[best + each * torch.arange(len(best), device=best.device)]

    def _look(self, lanes: Lanes, r: Tensor, race: bool) -> None:
        """Look at the points x + r [n, D], in the box; note what is there, and the cut."""
        sample, here = lanes.sample, self.wanted[lanes.sample]
        point = self.frame.point(sample, r)
        r = self.frame.way(sample, point)
        leaf, logits = forward(self.model.rows(sample), point)
        value, least = here.value("margin", logits), sure(logits)
        wanted = here.met(logits) & (value > least)
        v = here.cotangent("margin", logits)
        if race:  # what is not there yet goes on to the class of its lane
            heads = cotangents.boundaries(logits, lanes.label[:, None], here.labels)[0]
            v = torch.where(wanted[:, None], v, heads)
            ahead = (logits.detach().double() * heads).nan_to_num(nan=0).sum(dim=1)
            value = torch.where(wanted, value, ahead)
        g = finite_rows(logits, leaf, v[None], self.lost, sample)[0]
        lanes.look(r, self.frame.length(r), wanted)
        lanes.cut(r, value - least, g)
        lanes.drop()
        self.forwards.index_add_(0, sample, torch.ones_like(sample))
        self.backwards.index_add_(0, sample, torch.ones_like(sample))
