"""The loss of a defence: cross-entropy of clean and attacked inputs, and a penalty."""

import dataclasses
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast.penalties.base import Penalty
from jacfast.step import forward_with_penalty

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
PLACES = ("clean", "attacked", "both")


@dataclasses.dataclass(frozen=True)
class Defence:
    """``CE(model(x'), y') + lam * R(x'')`` as a function of (model, x, y): the loss of `fit`.

    x' is the batch in which `attack` has taken the place of the first ``share`` of the samples or,
    with ``twins``, joined them; x'' are the points of the penalty R. Without arguments it is plain
    training; with an attack, adversarial training (min-max training if the attack maximises the
    loss); with a penalty, regularisation, as post-processing if the model was trained before.

    Args:
        penalty: see `jacfast.penalties`; None: none.
        lam: its weight, finite and >= 0.
        attack: maps (model, x, y) to perturbed inputs, without a graph; called at every step.
        share: of the batch that is attacked, in (0, 1].
        twins: keep the attacked samples' originals in the cross-entropy.
        penalise: the penalty at the ``"clean"`` batch, at the ``"attacked"`` samples, or at
            ``"both"`` (the mean over all of them).
        smoothing: label smoothing of the cross-entropy, in [0, 1).
        layer: the submodule whose output takes the place of the logits in the penalty.
        batch_norm: of the penalty, for batch-norm in training mode: ``"refuse"``, ``"frozen"`` or
            ``"coupled"``, see `forward_with_penalty`.

    Raises:
        ValueError: an argument is not as above.

    Source: Jakubovitz & Giryes 2018, section 4 and appendix (shares; inner layers; the clean
    batch); Seck, Loosli & Canu, section 4 (twins; penalty at both); Madry et al. 2018 (min-max).
    """

    penalty: Penalty | None = None
    lam: float = 0.0
    attack: Attack | None = None
    share: float = 1.0
    twins: bool = False
    penalise: str = "clean"
    smoothing: float = 0.0
    layer: str | None = None
    batch_norm: str = "refuse"

    def __post_init__(self) -> None:
        if not 0 <= self.lam < float("inf"):
            raise ValueError(f"lam must be finite and >= 0; got {self.lam}")
        if self.lam > 0 and self.penalty is None:
            raise ValueError(f"lam needs a penalty to weigh; got {self.lam} and penalty=None")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1]; got {self.share}")
        if self.penalise not in PLACES:
            raise ValueError(f"penalise must be one of {', '.join(PLACES)}; got {self.penalise!r}")
        if self.penalise != "clean" and self.attack is None:
            raise ValueError(f"penalise={self.penalise!r} needs an attack; got attack=None")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1); got {self.smoothing}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch x [N, ...] with labels y [N] int64."""
        moved, labels = x[:0], y[:0]
        if self.attack is not None:
            count = max(1, round(self.share * len(x)))
            labels = y[:count]
            moved = self.attack(model, x[:count], labels)
        first = 0 if self.twins else len(moved)
        rest, classes = x[first:], torch.cat([y[first:], labels])
        with_penalty = functools.partial(
            forward_with_penalty,
            model,
            penalty=self.penalty,
            layer=self.layer,
            batch_norm=self.batch_norm,
        )
        value: Tensor | float = 0.0
        if self.lam == 0:
            logits = model(torch.cat([rest, moved]))
        elif self.penalise == "clean":
            logits, value = with_penalty(x, y)
            logits = torch.cat([logits[first:], model(moved)]) if len(moved) else logits
        elif self.penalise == "attacked":
            logits, value = with_penalty(moved, labels)
            logits = torch.cat([model(rest), logits]) if len(rest) else logits
        else:
            logits, value = with_penalty(torch.cat([x, moved]), torch.cat([y, labels]))
            logits = logits[first:]
        return F.cross_entropy(logits, classes, label_smoothing=self.smoothing) + self.lam * value
