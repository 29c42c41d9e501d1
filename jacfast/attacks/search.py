"""The search for the nearest linearised boundary of each sample of a batch."""

import torch
from torch import Tensor

from jacfast.attacks.options import Options
from jacfast.batching import GPU_ENTRIES
from jacfast.calling import Call, logits_of, unwrapped
from jacfast.cotangents import boundaries
from jacfast.lipschitz import chain, gradient_bound
from jacfast.ops import Nearest, deepfool_candidate, row_norm
from jacfast.ops.deepfool_candidate import keep_nearer
from jacfast.vjp import pull_back_blocks

# Gradient rows per backward pass: batching saves calls until the caches are full, and nothing where
# a row is long (benchmarks/README.md, 'Rows at once').
ROWS, ENTRIES = 128, 2**19
# Rows ahead, from which on a bound of the gradients costs less than the rows that it saves.
WORTH = 1000
CLASSES = 1024  # at most: the bound is a matrix of the classes


class Search:
    """Compares the candidates' distances, and skips those that cannot be the nearest.

    The distance to the boundary with class k is |f_k| / ||w_k||, and f_k costs nothing. Where the
    layers of the network are known, ||w_k|| is bounded (`gradient_bound`), so the distance is at
    least ``|f_k| / bound_k``. A candidate for which that is more than the nearest distance found so
    far is never the winner, and its row is not computed. Near a boundary, that is most of them.
    """

    def __init__(self, model: Call, options: Options) -> None:
        self.options = options
        # in the 2-norm, and where a count of what is left costs no wait for a device
        self.layers = chain(unwrapped(model.plain)) if options.p == 2 else None
        self.bound: Tensor | None = None  # [K, K], of the gradient of z_j - z_k

    def rows(self, index: Tensor) -> "Search":
        """Return the search of some of the samples: the same, as bounds are of the network."""
        return self

    def learn(self, x: Tensor, rows: int) -> None:
        """Bound the gradients, once, if so many rows at most are worth it."""
        wide = x.dtype in (torch.float32, torch.float64)
        if self.bound is not None or self.layers is None or rows < WORTH or not wide:
            return
        weight = self.layers[-1].weight
        assert isinstance(weight, Tensor)
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or len(weight) > CLASSES:
            return
        bound = gradient_bound(self.layers, x)
        if bool(bound.isfinite().all()):
            self.bound = bound
        else:
            self.layers = None  # not again

    def nearest(
        self, model: Call, leaf: Tensor, logits: Tensor, classes: Tensor, running: Tensor
    ) -> tuple[Nearest, Tensor]:
        """Find the nearest boundary of the n running samples.

        Args:
            model: of the n samples; leaf, logits: [n, ...] and [n, K], the graph.
            classes: [n, C + 1], the candidates; the last is the class to leave.
            running: [n] bool, whose result matters.

        Returns:
            The nearest, and [n] int64, how many rows each sample cost.
        """
        labels, origin = classes[:, :-1], classes[:, -1]
        z = logits.detach()
        f = z.gather(1, labels) - z.gather(1, origin[:, None])
        least = self._least(f, origin, labels, running)
        if least is not None:
            least, order = least.sort(dim=1)
            labels, f = labels.gather(1, order), f.gather(1, order)
        nearest = Nearest.empty(len(leaf), leaf[0].numel(), leaf)
        rows = torch.zeros_like(origin)
        here, part, start = torch.arange(len(leaf), device=leaf.device), nearest, 0
        while start < labels.shape[1]:
            count = rows_at_once(leaf)
            if least is not None and start == 0:
                count = 1  # the likely winner first
            elif least is not None:
                ahead = least[here, start]  # equal only where both are 0: then the class decides
                possible = (ahead <= part.distance) & ahead.isfinite()
                left = int(possible.sum())
                if left == 0:
                    break
                # a forward pass of the few costs less than a row of the many
                if 2 * left <= len(here):
                    _put_back(part, nearest, here)
                    here = here[possible]
                    part = Nearest(*(field[here] for field in nearest))
                    leaf = leaf.detach()[possible].requires_grad_()
                    model = model.rows(possible)
                    with torch.enable_grad():
                        logits = logits_of(model, leaf)
            now = slice(start, start + count)
            self._offer(leaf, logits, origin[here], labels[here, now], f[here, now], part)
            rows[here] += labels[here, now].shape[1]
            start += count
        _put_back(part, nearest, here)
        return nearest, rows

    def _least(self, f: Tensor, origin: Tensor, labels: Tensor, running: Tensor) -> Tensor | None:
        """Return the least distance [n, C] that each candidate can have, if that is known."""
        if self.bound is None:
            return None
        least = f.abs() / self.bound[labels, origin[:, None]]
        return least.masked_fill(~running[:, None], float("inf"))

    def _offer(
        self,
        leaf: Tensor,
        logits: Tensor,
        origin: Tensor,
        labels: Tensor,
        f: Tensor,
        nearest: Nearest,
    ) -> None:
        """Compute the rows of the candidates `labels` [n, c] and offer them, one by one."""
        blocks = pull_back_blocks(logits, leaf, boundaries(logits, labels, origin))
        rows = (self.options.restrict(w) for block in blocks for w in block)
        for w, value, label in zip(rows, f.T, labels.T, strict=True):
            if self.options.q == 2:
                deepfool_candidate(w, value.to(w.dtype), label, nearest)
            else:
                norm = dual_norm(w, self.options.q)
                keep_nearer(w, value.to(w.dtype), label, norm, nearest)


def dual_norm(w: Tensor, q: float) -> Tensor:
    """Return ``||w||_q`` of the rows of w [R, D], [R]: float64, for q = 1 as `row_norm` has it."""
    if q == 1:
        return row_norm(w, "sumabs")
    return torch.linalg.vector_norm(w, q, dim=1, dtype=torch.float64)


def rows_at_once(x: Tensor) -> int:
    """Return how many rows a backward pass of the samples x [n, ...] should compute."""
    if x.device.type == "cpu":
        return max(1, min(ROWS // len(x), ENTRIES // x.numel()))
    return max(1, GPU_ENTRIES // x.numel())


def _put_back(part: Nearest, nearest: Nearest, here: Tensor) -> None:
    if part is not nearest:
        for whole, field in zip(nearest, part, strict=True):
            whole[here] = field


def largest_others(logits: Tensor, origin: Tensor, candidates: int | None) -> Tensor:
    """Return the classes [N, C - 1] of the largest logits but `origin` [N], C = candidates or K."""
    count = logits.shape[1] if candidates is None else min(candidates, logits.shape[1])
    floor = torch.finfo(logits.dtype).min  # above the origin, also for a class at -inf
    others = logits.clamp(min=floor).scatter(1, origin[:, None], float("-inf"))
    return others.topk(count - 1, dim=1).indices
