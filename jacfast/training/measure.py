"""What hardening changes, measured on test images."""

import dataclasses
from typing import Any

from torch import Tensor, nn

from jacfast.attacks import DeepFoolResult, deepfool, fgsm
from jacfast.evaluation import accuracy, accuracy_curve, jacobian_norm, rho_of
from jacfast.evaluation.predict import BATCH
from jacfast.progress import watch
from jacfast.robustness import robustness_report
from jacfast.robustness.measure import relative

EPSILONS = (0.05, 0.1, 0.2)
# Of the worst case, which costs about 250 passes an image; figures to publish need more of each.
IMAGES, SHARES = 200, (0.03, 0.1, 0.2)
SMALL: dict[str, Any] = {"budget": 30, "steps": 10, "restarts": 1}


@dataclasses.dataclass(frozen=True)
class Measures:
    """The figures of one model; accuracies and rho_adv as shares, norms as batch means."""

    accuracy: float
    rho_adv: float
    norm_clean: float  # mean ||J||_F at the images
    norm_perturbed: float  # mean ||J||_F at the DeepFool images
    fgsm: dict[str, float]  # accuracy under FGSM, by epsilon
    worst: dict[str, Any]  # of the first images, see `_worst`
    deepfool: DeepFoolResult


def measure(model: nn.Module, x: Tensor, y: Tensor, name: str) -> Measures:
    """Measure `model`, in eval mode, on images x [N, ...] in [0, 1] with labels y [N]."""
    attack = DeepFoolResult.cat(
        [deepfool(model, part) for part in watch(x.split(BATCH), desc=f"deepfool, {name}")]
    )
    return Measures(
        accuracy=accuracy(model, x, y),
        rho_adv=rho_of(attack, x),
        norm_clean=jacobian_norm(model, x, progress=f"jacobian, {name}"),
        norm_perturbed=jacobian_norm(model, attack.adversarial, progress=f"jacobian at r, {name}"),
        fgsm=dict(
            zip(map(str, EPSILONS), accuracy_curve(model, x, y, fgsm, EPSILONS), strict=True)
        ),
        worst=_worst(model, x[:IMAGES], y[:IMAGES]),
        deepfool=attack,
    )


def _worst(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Return the worst case over attacks in the 2-norm: distance, accuracy by eps, findings.

    The sizes are those of the images, the same before and after. Who knows no image is not
    attacked.
    """
    eps = relative(x, 2, SHARES)
    found: dict[str, Any] = {"images": len(x), "median_distance": 0.0, "findings": []}
    if accuracy(model, x, y) == 0:
        return found | {"accuracy": {f"{each:g}": 0.0 for each in eps}}
    report = robustness_report(model, x, y, eps=eps, **SMALL)
    return found | {
        "median_distance": report.to_dict()["attacks"]["worst case"]["median distance"],
        "accuracy": {f"{each:g}": report.robust_accuracy(each) for each in eps},
        "findings": [sign.name for sign in report.findings],
    }
