"""The columns of a table: what is measured on a trained network."""

import functools
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from jacfast.attacks import DeepFoolResult, bim, deepfool, fgsm
from jacfast.evaluation import accuracy, accuracy_curve, jacobian_norm, rho_of
from jacfast.evaluation.predict import BATCH
from jacfast.reproduce import parts
from jacfast.reproduce.config import Curve, Row, Table


class Subject:
    """A network and the images that it is measured on; DeepFool runs once for all columns."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        table: Table,
        row: Row,
        reference: Callable[[], float],
    ) -> None:
        self.model, self.x, self.y, self.reference = model, x, y, reference
        self.own = float(row.training.attack.get("eps", math.nan)) if row.training else math.nan
        self.few, self.labels = x[: table.samples], y[: table.samples]
        self.step_size = table.step_size
        self._found: DeepFoolResult | None = None

    @property
    def deepfool(self) -> DeepFoolResult:
        """DeepFool of the first samples, by the paper's choices."""
        if self._found is None:
            batches = self.few.split(BATCH)
            self._found = DeepFoolResult.cat([deepfool(self.model, part) for part in batches])
        return self._found

    def under(self, name: str, eps: float) -> float:
        """Return the accuracy, in percent, under one of `UNDER` of that size."""
        attack, options = UNDER[name]
        if attack is bim:
            options = options | {"step_size": self.step_size}
        attack = functools.partial(attack, **options)
        return 100 * accuracy_curve(self.model, self.few, self.labels, attack, [eps])[0]

    def curve(self, curve: Curve) -> list[float]:
        """Return the accuracy, as a share, at every size of an attack."""
        attack = functools.partial(parts.ATTACKS[curve.attack], **curve.options)
        x, y = self.x[: curve.samples], self.y[: curve.samples]
        return accuracy_curve(self.model, x, y, attack, curve.epsilons)


# name -> figure, in the unit of the papers' tables
MEASURES: dict[str, Callable[[Subject], float]] = {
    "accuracy": lambda s: 100 * accuracy(s.model, s.x, s.y),
    "rho_adv": lambda s: 100 * rho_of(s.deepfool, s.few),
    "norm_clean": lambda s: jacobian_norm(s.model, s.few),
    "norm_perturbed": lambda s: jacobian_norm(s.model, s.deepfool.adversarial),
}
# "fgsm 0.1" is the accuracy under it, "fgsm 0.5 ref" the same at half the table's eps_ref, "fgsm
# own" at the eps that the row was trained against
UNDER: dict[str, tuple[Callable, dict[str, Any]]] = {
    "fgsm": (fgsm, {}),
    "bim": (bim, {}),
    "margin": (bim, {"loss": "margin"}),  # the 'C&W' of Yu et al.
}


def measure(columns: list[str], subject: Subject) -> list[float]:
    """Return the figure of each column, accuracies in percent, rho_adv times 100."""
    return [find(column)(subject) for column in columns]


def find(column: str) -> Callable[[Subject], float]:
    """Return the measure of a column.

    Raises:
        ValueError: there is no such one.
    """
    name, *size = column.split()
    if name in UNDER and size == ["own"]:
        return lambda subject: subject.under(name, subject.own)
    if name in UNDER and len(size) == 1:
        return lambda subject: subject.under(name, float(size[0]))
    if name in UNDER and size[1:] == ["ref"]:
        return lambda subject: subject.under(name, float(size[0]) * subject.reference())
    if column not in MEASURES:
        known = [
            *MEASURES,
            *(f"{name} EPS" for name in UNDER),
            *(f"{name} EPS ref" for name in UNDER),
        ]
        raise ValueError(f"column must be one of {', '.join(known)}; got {column!r}")
    return MEASURES[column]
