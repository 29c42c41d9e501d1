"""The columns of a table: what is measured on a trained network."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from jacfast.attacks import DeepFoolResult, deepfool
from jacfast.evaluation import rho_of
from jacfast.reproduce import parts
from jacfast.training.measure import BATCH, accuracy, jacobian_norm


class Subject:
    """A network and the images that it is measured on; DeepFool runs once for all columns."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, samples: int) -> None:
        self.model, self.x, self.y = model, x, y
        self.few, self.labels = x[:samples], y[:samples]
        self._found: DeepFoolResult | None = None

    @property
    def deepfool(self) -> DeepFoolResult:
        """DeepFool of the first samples, by the paper's choices."""
        if self._found is None:
            batches = self.few.split(BATCH)
            self._found = DeepFoolResult.cat([deepfool(self.model, part) for part in batches])
        return self._found

    def under(self, name: str, **options) -> float:
        """Return the accuracy, in percent, under an attack."""
        attack = parts.attack({"name": name, **options})
        assert attack is not None
        pairs = zip(self.few.split(BATCH), self.labels.split(BATCH), strict=True)
        moved = torch.cat([attack(self.model, x, y) for x, y in pairs])
        return 100 * accuracy(self.model, moved, self.labels)


# name -> figure, in the unit of the papers' tables
MEASURES: dict[str, Callable[[Subject], float]] = {
    "accuracy": lambda s: 100 * accuracy(s.model, s.x, s.y),
    "rho_adv": lambda s: 100 * rho_of(s.deepfool, s.few),
    "norm_clean": lambda s: jacobian_norm(s.model, s.few, "jacobian"),
    "norm_perturbed": lambda s: jacobian_norm(s.model, s.deepfool.adversarial, "jacobian at r"),
}
# "fgsm 0.1" is the accuracy under it, with these options beside eps; steps as Yu et al. have them
UNDER: dict[str, dict] = {
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
    name, _, eps = column.partition(" ")
    if name in UNDER and eps:
        return lambda subject: subject.under(**UNDER[name], eps=float(eps))
    if column not in MEASURES:
        known = [*MEASURES, *(f"{name} EPS" for name in UNDER)]
        raise ValueError(f"column must be one of {', '.join(known)}; got {column!r}")
    return MEASURES[column]
