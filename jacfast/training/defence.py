"""The loss of a defence: cross-entropy of clean and attacked inputs, and a penalty."""

import dataclasses
from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast.attacks.given import Attack, check_attack, perturb
from jacfast.calling import as_logits, check_classes, check_labels, in_a_step, pick
from jacfast.checks import at_least, flag, keep, one_of, share
from jacfast.penalties.base import Penalty, check_addend
from jacfast.portion import Portion, portion, within
from jacfast.step import forward_with_penalty
from jacfast.step.checks import BATCH_NORMS, BatchNorm, check_layer, check_no_pair, kinds_of
from jacfast.training.attacked import attacked_of
from jacfast.training.schedule import Schedule

Place = Literal["clean", "attacked", "both"]
PLACES: tuple[str, ...] = get_args(Place)
NEEDS = {  # what would be ignored without
    "share": "attack",
    "twins": "attack",
    "penalise": "attack",
    "layer": "penalty",
    "batch_norm": "penalty",
}


@dataclasses.dataclass(frozen=True)
class Defence:
    """``CE(model(x'), y') + lam * R(x'')`` as a function of (model, x, y): the loss of `fit`.

    x' is the batch in which `attack` has taken the place of the first ``share`` of the samples or,
    with ``twins``, joined them; x'' are the points of the penalty R. Without arguments it is plain
    training; with an attack, adversarial training (min-max training if the attack maximises the
    loss); with a penalty, regularisation, as post-processing if the model was trained before.

    Args:
        penalty: see `jacfast.penalties`; None: none.
        lam: its weight, finite and > 0, or a `Schedule` of it over the steps, which `fit` counts;
            0 without a penalty.
        attack: maps (model, x, y) to perturbed inputs, without a graph, or to an `AttackResult` of
            them: ``attack=jacfast.deepfool`` will do; called at every step (jacfast's attack the
            model in eval mode, as ever). For images attacked once, before the training, see
            `attack_once`.
        share: of the batch that is attacked, in (0, 1].
        twins: keep the attacked samples' originals in the cross-entropy.
        penalise: the penalty at the ``"clean"`` batch, at the ``"attacked"`` samples, or at
            ``"both"`` (the mean over all of them). It may stand without a penalty, and then says
            nothing: so a row of lambda 0 differs from the others in the penalty alone.
        smoothing: label smoothing of the cross-entropy, in [0, 1).
        layer: the submodule whose output takes the place of the logits in the penalty.
        batch_norm: of the penalty, for batch-norm in training mode: ``"refuse"``, ``"frozen"`` or
            ``"coupled"``, see `forward_with_penalty`.

    Raises:
        TypeError, ValueError: an argument is not as above, or would be ignored: ``share``,
            ``twins`` or ``penalise`` without an attack, ``layer`` or ``batch_norm`` without a
            penalty, a penalty without a weight; or its ``reduction`` is not ``"mean"``.

    Source: Jakubovitz & Giryes 2018, section 4 and appendix (shares; inner layers; the clean
    batch); Seck, Loosli & Canu, section 4 (twins; penalty at both); Madry et al. 2018 (min-max).
    """

    penalty: Penalty | None = None
    lam: float | Schedule = 0.0
    attack: Attack | None = None
    share: float = 1.0
    twins: bool = False
    penalise: Place = "clean"
    smoothing: float = 0.0
    layer: str | None = None
    batch_norm: BatchNorm = "refuse"

    def __post_init__(self) -> None:
        lam = self.lam if isinstance(self.lam, Schedule) else at_least("lam", self.lam, 0)
        most = lam.lam if isinstance(lam, Schedule) else lam
        keep(
            self,
            lam=lam,
            share=share("share", self.share),
            twins=flag("twins", self.twins),
            penalise=one_of("penalise", self.penalise, PLACES),
            smoothing=at_least("smoothing", self.smoothing, 0),
            batch_norm=one_of("batch_norm", self.batch_norm, BATCH_NORMS),
        )
        if self.penalty is None and most > 0:
            raise ValueError(f"lam needs a penalty to weigh; got {self.lam} and penalty=None")
        if self.penalty is not None and most == 0:
            raise ValueError(f"lam must be > 0 with a penalty; got {self.lam}")
        if self.penalty is not None:
            check_addend(self.penalty)
        check_layer(self.layer)
        if self.attack is not None:
            check_attack(self.attack)
        for name, needed in NEEDS.items():
            value = getattr(self, name)
            if value != getattr(Defence, name) and getattr(self, needed) is None:
                raise ValueError(f"{name}={value!r} needs {needed}; got {needed}=None")
        if self.smoothing >= 1:
            raise ValueError(f"smoothing must be in [0, 1); got {self.smoothing}")

    @property
    def by_steps(self) -> bool:
        """Whether the loss depends on the number of the step."""
        return isinstance(self.lam, Schedule) or (
            self.penalty is not None and self.penalty.every > 1
        )

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, step: int | None = None
    ) -> Tensor:
        """Return the loss of a batch x [N, ...], floating point, with labels y [N] int64.

        Args:
            step: its number, from 0, for a `Schedule` and for a penalty with ``every > 1``.

        Raises:
            TypeError, ValueError: y is not int64 [N] in 0 .. K - 1, or the attack, the penalty or
                `forward_with_penalty` refuses what it is given.
        """
        check_no_pair(kinds_of(model))
        check_labels(y, len(x))
        if isinstance(self.lam, Schedule):
            return self._at(self.lam, step)(model, x, y, step=step)
        here = portion() or Portion(torch.arange(len(x), device="cpu"), len(x))
        attacked = attacked_of(here.total, self.share) if self.attack else 0  # of the whole batch
        own = int((here.index < attacked).sum())
        first, gone = (0, 0) if self.twins else (own, attacked)
        of_moved = here.other(here.index[:own], attacked)
        of_rest = here.other(here.index[first:] - gone, here.total - gone)
        moved, labels = x[:own], y[:own]
        if self.attack is not None and own:
            # of a share only some processes come here, and draw by themselves
            with in_a_step(), _among(of_moved if attacked == here.total else None):
                moved = perturb(self.attack, model, moved, labels)
        rest, classes = x[first:], torch.cat([y[first:], labels])
        value: Tensor | float = 0.0
        if self.penalty is None:
            logits = _logits(model, torch.cat([rest, moved]), _joined(of_rest, of_moved))
        elif self.penalise == "clean":
            logits, value = self._penalised(model, x, y, here, step)
            if own:
                logits = torch.cat([logits[first:], _logits(model, moved, of_moved)])
        elif self.penalise == "attacked":
            # some processes have attacked samples alone, some others: neither knows what the other
            # draws, unless the rest is the whole batch
            among = of_rest if self.twins else None
            parts = [_logits(model, rest, among)] if len(rest) else []
            if own:
                logits, value = self._penalised(model, moved, labels, of_moved, step)
                value = value * here.weight(own, attacked)
                parts.append(logits)
            logits = torch.cat(parts)
        else:
            both = _joined(here, of_moved)
            points, all_labels = torch.cat([x, moved]), torch.cat([y, labels])
            logits, value = self._penalised(model, points, all_labels, both, step)
            value = value * here.weight(len(points), both.total)
            logits = logits[first:]
        check_classes(logits)
        check_labels(classes, *logits.shape)
        entropy = F.cross_entropy(logits, classes, label_smoothing=self.smoothing)
        terms = here.total + attacked * self.twins
        return entropy * here.weight(len(classes), terms) + self.lam * value

    def _at(self, schedule: Schedule, step: int | None) -> "Defence":
        """Return the defence of one step, without a penalty where it weighs nothing."""
        if step is None:
            raise ValueError(f"step must be given for lam={schedule}; got None")
        if lam := schedule(step):
            return dataclasses.replace(self, lam=lam)
        return dataclasses.replace(self, penalty=None, lam=0.0, layer=None, batch_norm="refuse")

    def _penalised(
        self, model: nn.Module, x: Tensor, y: Tensor, here: Portion, step: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return logits and penalty at x, which are this portion of the points of the penalty."""
        with _among(here):
            logits, value = forward_with_penalty(
                model,
                x,
                y,
                penalty=self.penalty,
                step=step,
                layer=self.layer,
                batch_norm=self.batch_norm,
            )
        return as_logits(logits, x), value


def _joined(first: Portion, then: Portion) -> Portion:
    """Return the portion of two batches, one behind the other."""
    index = torch.cat([first.index, first.total + then.index])
    return first.other(index, first.total + then.total)


def _among(here: Portion | None) -> AbstractContextManager[None]:
    """Let what is called inside be of this portion, if there are several processes."""
    return within(here if portion() else None)


def _logits(model: nn.Module, x: Tensor, here: Portion | None) -> Tensor:
    with _among(here):
        return as_logits(pick(model(x)), x)
