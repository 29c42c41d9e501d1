"""Does adversarial training add to the Jacobian penalty?

Jakubovitz & Giryes, table 3: rho_adv 34.24 with the penalty, 36.29 with it and a tenth of DeepFool
images. `jg-table3` sees no gain; here each of its choices is made in another way, the others being
kept, on the fully connected FC500-150-10 in place of the CNN, which takes ten times as long. 5,000
images: 10 epochs without a defence, then 6 with one, in batches of 50.
"""

import copy
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jacfast import models
from jacfast.attacks import deepfool
from jacfast.data import Split
from jacfast.evaluation import accuracy, rho_adv
from jacfast.penalties import Frobenius
from jacfast.training import Defence, attack_once, fit

IMAGES, BATCH, LR = 5000, 50, 1e-3
TESTED, MEASURED = 2000, 300  # test images: for the accuracy, for rho_adv


@dataclasses.dataclass(frozen=True)
class Choice:
    """A defence after the training without one."""

    lam: float = 0.01  # of the root mean square over the batch: the paper's 0.1 is of batches
    rows: int | Literal["exact"] = 1
    epochs: int = 6
    kept: bool = False  # the state of Adam
    # of adversarial training alone:
    share: float = 0.1
    overshoot: float = 0.02
    made: str = "once"  # or anew in every "epoch" or "step"
    against: str = "base"  # the network that images made once are to fool
    penalise: Literal["clean", "both"] = "clean"


CHOICES = {
    "the table's": Choice(),
    "no penalty": Choice(lam=0.0),
    "made in every epoch": Choice(made="epoch"),
    "made in every step": Choice(made="step"),
    "made against the penalised network": Choice(against="penalised"),
    "half of the images": Choice(share=0.5),
    "overshoot 0.5": Choice(overshoot=0.5),
    "penalty at both images": Choice(made="step", penalise="both"),
    "a fifth of the weight": Choice(lam=0.002),
    "ten times the weight (the paper's 0.1, by the batch's mean)": Choice(lam=0.1),
    "four projections": Choice(rows=4),
    "twice the epochs": Choice(epochs=12),
    "Adam's state kept": Choice(kept=True),
}
ATTACKED = ("share", "overshoot", "made", "against", "penalise")


def alone(choice: Choice) -> Choice:
    """Return what a choice is without adversarial training: several have that in common."""
    return dataclasses.replace(choice, **{name: getattr(Choice, name) for name in ATTACKED})


def runs() -> list[tuple[str, str]]:
    """Return (choice, "alone" or "with AT") of all runs of a seed."""
    found, seen = [], set()
    for name, choice in CHOICES.items():
        if alone(choice) not in seen:
            seen.add(alone(choice))
            found.append((name, "alone"))
        found.append((name, "with AT"))
    return found


class Networks:
    """The networks of one seed, each trained once."""

    def __init__(self, split: Split, seed: int) -> None:
        self.split, self.seed = split, seed
        self.x, self.y = split.train_x[:IMAGES], split.train_y[:IMAGES]
        self.found: dict[tuple[Choice, bool], nn.Module] = {}

    def measured(self, name: str, which: str) -> dict[str, float]:
        """Train one network; return accuracy, in percent, and rho_adv times 100."""
        at, choice = which == "with AT", CHOICES[name]
        model = self.trained(choice if at else alone(choice), at)
        x, y = self.split.test_x[:TESTED], self.split.test_y[:TESTED]
        rho = rho_adv(model, x[:MEASURED])
        return {"clean": 100 * accuracy(model, x, y), "rho": 100 * rho}

    @functools.cached_property
    def base(self) -> tuple[nn.Module, dict[str, Any]]:
        """The network before any defence, and the state of its Adam."""
        torch.manual_seed(self.seed)
        model = models.fc500()
        optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        options: dict[str, Any] = {"batch_size": BATCH, "optimizer": optimizer, "seed": self.seed}
        fit(model, self.x, self.y, epochs=10, loss=Defence(), **options)
        return model.eval(), optimizer.state_dict()

    def trained(self, choice: Choice, at: bool) -> nn.Module:
        """Return the network of a choice; what was trained before is taken over."""
        if (choice, at) not in self.found:
            self.found[choice, at] = self._trained(choice, at)
        return self.found[choice, at]

    def _trained(self, choice: Choice, at: bool) -> nn.Module:
        """Train one, from the base, in eval mode (no dropout), as in the tables."""
        base, state = self.base
        model = copy.deepcopy(base)
        optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        if choice.kept:
            optimizer.load_state_dict(copy.deepcopy(state))
        options: dict[str, Any] = {}
        if choice.lam:
            options = {"penalty": Frobenius(choice.rows, root=True), "lam": choice.lam}
        data: dict[str, Any] = {"x": self.x, "y": self.y, "batch_size": BATCH}
        if at and choice.made == "step":
            move = functools.partial(_deepfool, overshoot=choice.overshoot)
            options |= {"attack": move, "share": choice.share, "penalise": choice.penalise}
        elif at and choice.made == "epoch":
            data = {"x": Batches(model, self.x, self.y, choice)}
        elif at:
            target = base
            if choice.against == "penalised":
                target = self.trained(alone(choice), False)
            data["x"] = attacked(target, self.x, self.y, choice)
        loss, epochs = Defence(**options), choice.epochs
        fit(model, **data, epochs=epochs, optimizer=optimizer, loss=loss, seed=self.seed)
        return model


@dataclasses.dataclass
class Batches:
    """Shuffled batches; the attacked images are made anew whenever they are gone through."""

    model: nn.Module
    x: Tensor
    y: Tensor
    choice: Choice

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x = attacked(self.model, self.x, self.y, self.choice)
        for batch in torch.randperm(len(x)).split(BATCH):
            yield x[batch], self.y[batch]


def attacked(model: nn.Module, x: Tensor, y: Tensor, choice: Choice) -> Tensor:
    move = functools.partial(_deepfool, overshoot=choice.overshoot)
    return attack_once(model, x, y, move, choice.share)


def _deepfool(model: nn.Module, x: Tensor, y: Tensor, *, overshoot: float) -> Tensor:
    """Away from the predicted class, as in the tables; the label stays y."""
    return deepfool(model, x, steps=5, overshoot=overshoot).adversarial
