"""What hardening changes, measured on test images."""

import dataclasses

import torch
from torch import Tensor, nn
from tqdm import tqdm

from jacfast.attacks import DeepFoolResult, deepfool, fgsm
from jacfast.evaluation import rho_of
from jacfast.jacobian import jacobian
from jacfast.quiet import logits_of, quiet

EPSILONS = (0.05, 0.1, 0.2)
BATCH = 250


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
        [deepfool(model, part) for part in tqdm(x.split(BATCH), desc=f"deepfool, {name}")]
    )
    return Measures(
        accuracy=accuracy(model, x, y),
        rho_adv=rho_of(attack, x),
        norm_clean=jacobian_norm(model, x, f"jacobian, {name}"),
        norm_perturbed=jacobian_norm(model, attack.adversarial, f"jacobian at r, {name}"),
        fgsm={
            str(eps): sum(
                accuracy(model, fgsm(model, part, labels, eps=eps), labels) * len(part)
                for part, labels in zip(x.split(BATCH), y.split(BATCH), strict=True)
            )
            / len(x)
            for eps in EPSILONS
        },
        deepfool=attack,
    )


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of samples that the model, in eval mode, classifies as `y`."""
    with quiet(model), torch.no_grad():
        labels = [logits_of(model, part.clone()).argmax(dim=1) for part in x.split(BATCH)]
    return float((torch.cat(labels) == y).double().mean())


def jacobian_norm(model: nn.Module, x: Tensor, name: str) -> float:
    """Return the mean over samples of ||J(x_i)||_F (not squared), J of the logits."""
    norms = [
        torch.linalg.vector_norm(jacobian(model, part).flatten(1), dim=1)
        for part in tqdm(x.split(BATCH), desc=name)
    ]
    return float(torch.cat(norms).double().mean())
