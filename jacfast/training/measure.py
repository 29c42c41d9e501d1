"""What hardening changes, measured on test images."""

import dataclasses

from torch import Tensor, nn

from jacfast.attacks import DeepFoolResult, deepfool, fgsm
from jacfast.evaluation import accuracy, accuracy_curve, jacobian_norm, rho_of
from jacfast.evaluation.predict import BATCH
from jacfast.progress import watch

EPSILONS = (0.05, 0.1, 0.2)


@dataclasses.dataclass(frozen=True)
class Measures:
    """The figures of one model; accuracies and rho_adv as shares, norms as batch means."""

    accuracy: float
    rho_adv: float
    norm_clean: float  # mean ||J||_F at the images
    norm_perturbed: float  # mean ||J||_F at the DeepFool images
    fgsm: dict[str, float]  # accuracy under FGSM, by epsilon
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
        fgsm={
            str(eps): share
            for eps, share in zip(
                EPSILONS, accuracy_curve(model, x, y, fgsm, EPSILONS), strict=True
            )
        },
        deepfool=attack,
    )
