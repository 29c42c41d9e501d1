"""The columns of a table: what is measured on a trained network."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from jacfast.attacks import DeepFoolResult, deepfool
from jacfast.evaluation import accuracy, accuracy_curve, jacobian_norm, rho_of
from jacfast.evaluation.predict import BATCH
from jacfast.reproduce import parts


class Subject:
    """A network and the images that it is measured on; DeepFool runs once for all columns."""

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, samples: int, reference: Callable[[], float]
    ) -> None:
        self.model, self.x, self.y, self.reference = model, x, y, reference
        self.few, self.labels = x[:samples], y[:samples]
        self._found: DeepFoolResult | None = None

    @property
    def deepfool(self) -> DeepFoolResult:
        """DeepFool of the first samples, by the paper's choices."""
        if self._found is None:
            batches = self.few.split(BATCH)
            self._found = DeepFoolResult.cat([deepfool(self.model, part) for part in batches])
        return self._found

    def under(self, spec: dict[str, Any], eps: float) -> float:
        """Return the accuracy, in percent, under an attack of that size."""
        name, options = spec["name"], {k: v for k, v in spec.items() if k != "name"}
        attack = functools.partial(parts.ATTACKS[name], **options)
        return 100 * accuracy_curve(self.model, self.few, self.labels, attack, [eps])[0]


# name -> figure, in the unit of the papers' tables
MEASURES: dict[str, Callable[[Subject], float]] = {
    "accuracy": lambda s: 100 * accuracy(s.model, s.x, s.y),
    "rho_adv": lambda s: 100 * rho_of(s.deepfool, s.few),
    "norm_clean": lambda s: jacobian_norm(s.model, s.few),
    "norm_perturbed": lambda s: jacobian_norm(s.model, s.deepfool.adversarial),
}
# "fgsm 0.1" is the accuracy under it, with these options beside eps (steps as Yu et al. have them);
# "fgsm 0.5 ref" the same at half the table's eps_ref
UNDER: dict[str, dict[str, Any]] = {
    "fgsm": {"name": "fgsm"},
    "bim": {"name": "bim", "step_size": 0.1},
    "margin": {"name": "bim", "step_size": 0.1, "loss": "margin"},
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
    if name in UNDER and len(size) == 1:
        return lambda subject: subject.under(UNDER[name], float(size[0]))
    if name in UNDER and size[1:] == ["ref"]:
        return lambda subject: subject.under(UNDER[name], float(size[0]) * subject.reference())
    if column not in MEASURES:
        known = [
            *MEASURES,
            *(f"{name} EPS" for name in UNDER),
            *(f"{name} EPS ref" for name in UNDER),
        ]
        raise ValueError(f"column must be one of {', '.join(known)}; got {column!r}")
    return MEASURES[column]
