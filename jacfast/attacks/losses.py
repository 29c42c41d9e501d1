"""The losses that attacks raise: their values, and their derivatives in the logits."""

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor

from jacfast.calling import largest, sane
from jacfast.cotangents import label_against_runner_up

Loss = Literal["cross-entropy", "margin"]
LOSSES: tuple[str, ...] = get_args(Loss)

SURE = 4  # epsilons of the logits by which a class must win: other batches round in another way


def cotangent(loss: str, logits: Tensor, y: Tensor) -> Tensor:
    """Return the direction [N, K] in the logits [N, K] that raises the loss at labels y [N].

    ``margin``, ``max_{i != y} z_i - z_y``: ``e_r - e_y`` with r the runner-up (the lowest class on
    ties). ``cross-entropy``: ``s - e_y``, s the softmax over the other classes. It is d CE / dz
    (the softmax minus e_y) divided by ``1 - p_y``, and stays what it is where p_y rounds to 1:
    there d CE / dz loses its entry y, then vanishes. No attack uses its length.
    """
    if loss == "margin":
        return -label_against_runner_up(logits, y)[0]
    return _others(logits, y).softmax(dim=1).scatter(1, y[:, None], -1.0)


def value(loss: str, logits: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each sample [N], float64: the one whose derivative `cotangent` is.

    For ``cross-entropy`` that is ``log((1 - p_y) / p_y)``, which grows with CE = ``-log p_y``.
    """
    logits = logits.detach().double()
    others = _others(logits, y)
    rival = others.amax(dim=1) if loss == "margin" else others.logsumexp(dim=1)
    return rival - logits.gather(1, y[:, None])[:, 0]


def sure(logits: Tensor) -> Tensor:
    """Return by how much a class must win [N], float64, to do so in another batch, too."""
    return SURE * torch.finfo(logits.dtype).eps * largest(logits)


@dataclasses.dataclass(frozen=True)
class Criterion:
    """What an attack is after: that the class is not the label, or, targeted, that it is."""

    labels: Tensor  # [N]
    targeted: bool = False

    def __getitem__(self, here: Tensor) -> "Criterion":
        return Criterion(self.labels[here], self.targeted)

    def met(self, logits: Tensor, confidence: float = 0.0) -> Tensor:
        """Say whose class is as wanted, even with `confidence` added to the logit to be beaten.

        Added to that of the label, or, targeted, taken from it. A sample with a logit that is NaN
        or +inf is not.
        """
        own = logits.gather(1, self.labels[:, None])
        shifted = own - confidence if self.targeted else own + confidence
        label = logits.scatter(1, self.labels[:, None], shifted).argmax(dim=1)
        return sane(logits) & ((label == self.labels) == self.targeted)

    def cotangent(self, loss: str, logits: Tensor) -> Tensor:
        """Return the direction [N, K] in the logits to go: up the loss, or, targeted, down."""
        up = cotangent(loss, logits, self.labels)
        return -up if self.targeted else up

    def value(self, loss: str, logits: Tensor) -> Tensor:
        """Return how far it has got [N], float64: the loss, or, targeted, minus the loss."""
        loss_of_each = value(loss, logits, self.labels)
        return -loss_of_each if self.targeted else loss_of_each


def _others(logits: Tensor, y: Tensor) -> Tensor:
    return logits.detach().scatter(1, y[:, None], float("-inf"))
