"""The pictures of `jacfast plot` that are of attacked images."""

import dataclasses
import functools
import math

import torch
from matplotlib.figure import Figure

from jacfast import evaluation, plots
from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.fgsm import fgsm
from jacfast.attacks.jsma import jsma
from jacfast.attacks.norms import lengths
from jacfast.commands.subject import Subject

# One pixel, 80 times, and its changes: Jakubovitz & Giryes, figure 2.
JSMA = functools.partial(jsma, steps=80, outputs="probabilities", stop=False)
PIXEL_CHANGES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def perturbations(subject: Subject) -> Figure:
    return plots.perturbation_figure(subject.x, subject.y, subject.attacked(subject.x))


def perturbations_fgsm(subject: Subject) -> Figure:
    """Draw the images of FGSM at eps_ref."""
    eps = _reference(subject)
    if eps is None:
        raise ValueError(
            "perturbations-fgsm needs eps_ref: the last model must classify more than half of the "
            "images correctly, and under FGSM of some eps at most half"
        )
    x, results = subject.x, {}
    for name, model in subject.models.items():
        found = fgsm.result(model, x, eps=eps)  # in its own norm all would be of one length
        results[name] = dataclasses.replace(found, norm=lengths(found.r), p=2.0, radius=math.inf)
    return plots.perturbation_figure(x, subject.y, results)


def _reference(subject: Subject) -> float | None:
    """Return eps_ref of the last model, the FGSM by which it errs on half of the images.

    None, if it does so without an attack, or not even at eps = 1, beyond which there is no image.
    """
    last = list(subject.models.values())[-1]
    clean, end = evaluation.accuracy_curve(last, subject.x, subject.y, fgsm, (0.0, 1.0))
    there = clean > 0.5 >= end
    return evaluation.reference_epsilon(last, subject.x, subject.y) if there else None


def accuracy(subject: Subject) -> Figure:
    """Draw eps from 0 to 1.5 eps_ref, or to 1 where there is none."""
    reference = _reference(subject)
    end = 1.0 if reference is None else 1.5 * reference
    epsilons = torch.linspace(0, end, 16, dtype=torch.float64).tolist()
    curves = {
        name: evaluation.accuracy_curve(model, subject.x, subject.y, fgsm, epsilons)
        for name, model in subject.models.items()
    }
    return plots.accuracy_figure(epsilons, curves, reference)


def accuracy_jsma(subject: Subject) -> Figure:
    curves = {
        name: evaluation.accuracy_curve(model, subject.x, subject.y, JSMA, PIXEL_CHANGES)
        for name, model in subject.models.items()
    }
    return plots.accuracy_figure(PIXEL_CHANGES, curves, attack="JSMA")


def roc(subject: Subject) -> Figure:
    """Draw two classes on images made against the first model by DeepFool: its two worst."""
    if len(subject.y.unique()) < 2:
        raise ValueError(
            f"--samples must take in two classes; the first {len(subject.y)} images are of one"
        )
    first = next(iter(subject.models.values()))
    x = deepfool(first, subject.x).adversarial
    curves = {
        name: evaluation.roc_curves(model, x, subject.y) for name, model in subject.models.items()
    }
    own = next(iter(curves.values()))
    return plots.roc_figure(curves, sorted(sorted(own, key=lambda k: own[k].auc)[:2]))
