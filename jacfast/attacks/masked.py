"""The loop of DeepFool on a GPU: in fixed shapes, without a wait for the device in an iteration."""

import torch
from torch import Tensor

from jacfast.attacks.part import Part

# Iterations between two looks at the device. A look lets it run dry, for about 20 us, in which the
# host launches three or four operations; an iteration launches up to forty beside the model's own,
# and with nobody left all of them are in vain. So looks are cheap: with two iterations between them
# half an iteration is lost in the mean, which costs as much as the looks that about ten iterations
# save. Reckoned, not measured.
EVERY = 2


def run_masked(everyone: Part, active: Tensor, fooled: bool | None = None) -> None:
    """Step with these samples until none of them is left; first with all, if fooled=False.

    Those that are done stay in the part, masked. Where half of it, rounded up, has room for all
    that run, these move into a part of that size, filled up with others: so there are at most
    log2 N + 1 shapes, the same in every batch, which cuDNN tunes once and CUDA graphs need.
    """
    halves = _Halves(everyone)
    halves.fit(len(active))
    for number in range(everyone.options.steps):
        graph = halves.part.evaluate(fooled)
        if number and number % EVERY == 0:
            left = int(halves.part.running.sum())  # the one look at the device
            if left == 0:
                break
            if halves.fit(left):
                del graph
                graph = halves.part.evaluate()
        halves.rows += halves.part.step(*graph)
        fooled = None
    halves.end()


class _Halves:
    """A part of the samples, which gets smaller, and where it is among them."""

    def __init__(self, everyone: Part) -> None:
        self._everyone = self.part = everyone
        self.rows: Tensor | int = 0  # gradient rows that each of the part has cost
        self._here = torch.arange(len(everyone), device=everyone.origin.device)

    def fit(self, left: int) -> bool:
        """Halve the part as often as the `left` running samples fit; say if it got smaller."""
        size = halved(len(self.part), left)
        if size == len(self.part):
            return False
        self.end()
        first = (~self.part.running).byte().argsort(stable=True)[:size]
        self._here = self._here[first]
        self.part = self._everyone.rows(self._here)
        return True

    def end(self) -> None:
        """Put back what has become of the part."""
        self.part.vjps += self.rows
        self.rows = 0
        if self.part is not self._everyone:
            self._everyone.put(self._here, self.part)


def halved(size: int, left: int) -> int:
    """Return `size`, halved and rounded up as often as it has room for `left` samples, >= 1."""
    while size > 1 and -(-size // 2) >= left:
        size = -(-size // 2)
    return size
