"""Does the 1-norm of the loss's input gradient make smooth networks robust, and those of ReLU not?

Rodriguez-Munoz, Wang & Torralba 2024 (arXiv 2409.20139): on ImageNet 51.6% robust accuracy where
adversarial training has 56.1, at 60% of its cost, with smooth activations; with ReLU it fails. Here
a small CNN, trained from the start, on MNIST or CIFAR-10. To first order CE + eps ||grad CE||_1 is
the largest cross-entropy within eps in the maximum norm: weights are multiples of eps.
"""

import dataclasses
import functools
import time

import torch
from torch import Tensor, nn

from jacfast.attacks import pgd
from jacfast.data import Split
from jacfast.evaluation import accuracy
from jacfast.penalties import Frobenius, InputGradient
from jacfast.robustness import robustness_report
from jacfast.training import Defence, fit

IMAGES, BATCH, LR = 20_000, 100, 1e-3
TESTED, MEASURED = 5000, 500  # test images: for the accuracy, for the attacks
STEPS = 7  # of PGD, in training
ACTIVATIONS = {"ReLU": nn.ReLU, "GELU": nn.GELU, "SiLU": nn.SiLU}


@dataclasses.dataclass(frozen=True)
class Choice:
    """A defence.

    Attributes:
        gradient: weight of the input gradient's 1-norm, in units of eps.
        jacobian: weight of the Jacobian's squared Frobenius norm, one projection.
        attack: whether every batch is attacked.
    """

    gradient: float = 0.0
    jacobian: float = 0.0
    attack: bool = False


CHOICES = {
    "plain": Choice(),
    "PGD training": Choice(attack=True),
    "input gradient, 1 eps": Choice(gradient=1),
    "input gradient, 2 eps": Choice(gradient=2),
    "Jacobian, 0.01": Choice(jacobian=0.01),
    "Jacobian, 0.1": Choice(jacobian=0.1),
}


def runs() -> list[tuple[str, str]]:
    """Return (choice, activation) of all runs of a seed."""
    return [(name, activation) for name in CHOICES for activation in ACTIVATIONS]


class Networks:
    """The networks of one seed."""

    def __init__(self, split: Split, seed: int) -> None:
        self.split, self.seed = split, seed
        self.grey = split.train_x.shape[1] == 1
        self.eps, self.epochs = (0.1, 5) if self.grey else (4 / 255, 4)

    def measured(self, name: str, activation: str) -> dict[str, float]:
        """Train one network; return accuracies, in percent, distances and seconds of a processor.

        Robust is an image that is classified correctly, and for which neither PGD nor
        `minimal_norm` finds another class within eps.
        """
        torch.manual_seed(self.seed)
        model = (small_cnn if self.grey else cifar_cnn)(ACTIVATIONS[activation])
        x, y = self.split.train_x[:IMAGES], self.split.train_y[:IMAGES]
        loss, begun = defence(CHOICES[name], self.eps), time.process_time()
        fit(model, x, y, epochs=self.epochs, batch_size=BATCH, lr=LR, seed=self.seed, loss=loss)
        spent = time.process_time() - begun
        x, y = self.split.test_x[:TESTED], self.split.test_y[:TESTED]
        clean, eps = accuracy(model.eval(), x, y), self.eps
        x, y = x[:MEASURED], y[:MEASURED]
        found = robustness_report(model, x, y, p=torch.inf, eps=(eps,), restarts=2)
        return {
            "clean": 100 * clean,
            "pgd": 100 * found.robust_accuracy(eps, "PGD"),
            "robust": 100 * found.robust_accuracy(eps),
            "distance": median(found.distances["worst case"], found.right),
            "training": round(spent, 1),
        }


def median(distances: Tensor, right: Tensor) -> float:
    """Return the median distance, in the maximum norm; of a wrong image it is 0."""
    return float(torch.where(right, distances, 0).median())


def defence(choice: Choice, eps: float) -> Defence:
    if choice.attack:
        attack = functools.partial(pgd, eps=eps, steps=STEPS, step_size=eps / 3)
        return Defence(attack=attack)
    if choice.gradient:
        return Defence(InputGradient(norm=1), choice.gradient * eps)
    return Defence(Frobenius(), choice.jacobian) if choice.jacobian else Defence()


def small_cnn(activation: type[nn.Module]) -> nn.Module:
    """Return two convolutions and two linear layers for [N, 1, 28, 28]."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, stride=2, padding=1), activation()),
        *(nn.Conv2d(16, 32, 4, stride=2, padding=1), activation()),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 100), activation(), nn.Linear(100, 10)),
    )


def cifar_cnn(activation: type[nn.Module]) -> nn.Module:
    """Return three convolutions and two linear layers for [N, 3, 32, 32]."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), activation()),
        *(nn.Conv2d(32, 64, 4, stride=2, padding=1), activation()),
        *(nn.Conv2d(64, 64, 4, stride=2, padding=1), activation()),
        *(nn.Flatten(), nn.Linear(64 * 8 * 8, 256), activation(), nn.Linear(256, 10)),
    )
