"""The columns of a table: what is measured on a trained network."""

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from jacfast import evaluation
from jacfast.attacks import DeepFoolResult, bim, deepfool, fgsm
from jacfast.attacks.norms import lengths
from jacfast.evaluation import accuracy, accuracy_curve, jacobian_norm, rho_of
from jacfast.evaluation.hessian import IMAGE_STEP
from jacfast.evaluation.predict import BATCH
from jacfast.progress import watch
from jacfast.reproduce import parts
from jacfast.reproduce.config import Curve, Row, Table

HESSIANS = 10  # test images whose whole Hessian is computed


class Subject:
    """A network and the images that it is measured on; what many columns need is computed once."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        table: Table,
        row: Row,
        reference: Callable[[], "Subject"],
    ) -> None:
        self.model, self.x, self.y, self.reference = model, x, y, reference
        self.own = float(row.training.attack.get("eps", math.nan)) if row.training else math.nan
        self.few, self.labels = x[: table.samples], y[: table.samples]
        self.step_size = table.step_size

    @cached_property
    def deepfool(self) -> DeepFoolResult:
        """DeepFool of the first samples, by the paper's choices."""
        batches = self.few.split(BATCH)
        return DeepFoolResult.cat([deepfool(self.model, part) for part in batches])

    @cached_property
    def bounds(self) -> evaluation.Bounds:
        return evaluation.distance_bounds(self.model, self.few)

    @cached_property
    def eps_ref(self) -> float:
        return evaluation.reference_epsilon(self.model, self.few, self.labels)

    @cached_property
    def aucs(self) -> dict[int, float]:
        """The area under the ROC curve by class, on DeepFool images of the reference."""
        x = self.reference().deepfool.adversarial
        curves = evaluation.roc_curves(self.model, x, self.labels)
        return {k: curve.auc for k, curve in curves.items()}

    def auc(self, k: int) -> float:
        """Return one of `aucs`."""
        if k not in self.aucs:
            raise ValueError(
                f"samples must take in an image of class {k}, which column 'auc {k}' measures; the "
                f"first {len(self.labels)} test images hold none"
            )
        return self.aucs[k]

    @cached_property
    def slopes(self) -> Tensor:
        """Gradients of the decision function."""
        parts = zip(self.few.split(BATCH), self.labels.split(BATCH), strict=True)
        return torch.cat([evaluation.decision_gradient(self.model, x, y) for x, y in parts])

    @cached_property
    def curvatures(self) -> Tensor:
        """Eigenvalues of the Hessian of the decision function."""
        x, y = self.few[:HESSIANS], self.labels[:HESSIANS]
        return evaluation.hessian_eigenvalues(self.model, x, y, step=IMAGE_STEP)

    def under(self, name: str, eps: float) -> float:
        """Return the accuracy, in percent, under one of `UNDER` of that size."""
        attack, options = UNDER[name]
        if attack is bim:
            options = options | {"step_size": self.step_size}
        attack = partial(attack, **options)
        return 100 * accuracy_curve(self.model, self.few, self.labels, attack, [eps])[0]

    def curve(self, curve: Curve) -> list[float]:
        """Return the accuracy, as a share, at every size of an attack."""
        attack = partial(parts.ATTACKS[curve.attack], **curve.options)
        x, y = self.x[: curve.samples], self.y[: curve.samples]
        sizes = watch(curve.epsilons, desc=curve.attack)
        return [accuracy_curve(self.model, x, y, attack, [eps])[0] for eps in sizes]


def _zeros(of: Callable[[Subject], Tensor], percent: float, subject: Subject) -> float:
    """Return the share, in percent, of entries below the magnitude that `percent` of the
    reference's are below: Yu et al. count 'near zero' by thresholds that are not known."""
    threshold = float(of(subject.reference()).abs().flatten().quantile(percent / 100))
    return 100 * float(evaluation.jacobian_statistics(of(subject), threshold).near_zero.mean())


def _relative(distance: Tensor, subject: Subject) -> float:
    """Return the mean of distance / ||x|| times 100, the scale of rho_adv."""
    return 100 * float((distance / lengths(subject.few)).mean())


def _inner(subject: Subject) -> Tensor:
    model = subject.model
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"bound_inner needs an nn.Sequential model; got {type(model).__name__}")
    return evaluation.inner_distance_bound(model, model[:-1], subject.few)


def _tightness(found: evaluation.Inequality) -> float:
    return 100 * float((found.left / found.right).mean())


def _norm(values: Tensor) -> float:
    return float(lengths(values).mean())


# name -> figure, in the unit of the papers' tables
MEASURES: dict[str, Callable[[Subject], float]] = {
    "accuracy": lambda s: 100 * accuracy(s.model, s.x, s.y),
    "rho_adv": lambda s: 100 * rho_of(s.deepfool, s.few),
    "norm_clean": lambda s: jacobian_norm(s.model, s.few),
    "norm_perturbed": lambda s: jacobian_norm(s.model, s.deepfool.adversarial),
    "gradient_norm": lambda s: _norm(s.slopes),
    "hessian_norm": lambda s: _norm(s.curvatures),
    "bound_inner": lambda s: _relative(_inner(s), s),
    "bound_frobenius": lambda s: _relative(s.bounds.frobenius, s),
    "bound_nearest": lambda s: _relative(s.bounds.nearest, s),
    "mean_value": lambda s: _tightness(
        evaluation.mean_value_bound(s.model, s.few, s.deepfool.adversarial)
    ),
    "curvature": lambda s: _tightness(evaluation.curvature_bound(s.model, s.few)),
    "auc": lambda s: sum(s.aucs.values()) / len(s.aucs),
}
# name -> figure for a number: "auc 2" is that of class 2, "gradient_zeros 1.1" is in `_zeros`
NUMBERED: dict[str, Callable[[float, Subject], float]] = {
    "auc": lambda k, s: s.auc(int(k)),
    "gradient_zeros": partial(_zeros, lambda s: s.slopes),
    "hessian_zeros": partial(_zeros, lambda s: s.curvatures),
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
    return [find(column)(subject) for column in watch(columns, desc="measures")]


def find(column: str) -> Callable[[Subject], float]:
    """Return the measure of a column.

    Raises:
        ValueError: there is no such one.
    """
    name, *rest = column.split()
    if name in UNDER and rest == ["own"]:
        return lambda subject: subject.under(name, subject.own)
    if name in UNDER and len(rest) == 1:
        return lambda subject: subject.under(name, float(rest[0]))
    if name in UNDER and rest[1:] == ["ref"]:
        return lambda subject: subject.under(name, float(rest[0]) * subject.reference().eps_ref)
    if name in NUMBERED and len(rest) == 1:
        return partial(NUMBERED[name], float(rest[0]))
    if column not in MEASURES:
        known = [
            *MEASURES,
            *(f"{name} NUMBER" for name in NUMBERED),
            *(f"{name} EPS" for name in UNDER),
            *(f"{name} EPS ref" for name in UNDER),
        ]
        raise ValueError(f"column must be one of {', '.join(known)}; got {column!r}")
    return MEASURES[column]
