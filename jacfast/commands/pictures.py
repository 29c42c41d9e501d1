"""Each picture of `jacfast plot`, from models and test images to the figure."""

import functools
from collections.abc import Callable

import torch
from matplotlib.figure import Figure

from jacfast import evaluation, plots
from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.fgsm import fgsm
from jacfast.attacks.jsma import jsma
from jacfast.commands import planes
from jacfast.commands.subject import Subject
from jacfast.evaluation.hessian import IMAGE_STEP
from jacfast.evaluation.line import crossing

MAPS, SPECTRA = 4, 2  # images shown, images whose whole Hessian is computed
# One pixel, 80 times, and its changes: Jakubovitz & Giryes, figure 2.
JSMA = functools.partial(jsma, steps=80, outputs="probabilities", stop=False)
PIXEL_CHANGES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def perturbations(subject: Subject) -> Figure:
    return plots.perturbation_figure(subject.x, subject.y, subject.attacked(subject.x))


def line(subject: Subject) -> Figure:
    """Draw S up to half as far again as the first model's boundary, each along its own FGSM."""
    x, y = subject.one()
    directions = {
        name: evaluation.input_direction(model, x, y, "loss").sign()
        for name, model in subject.models.items()
    }

    def along(name: str, end: float, points: int) -> evaluation.Line:
        t = torch.linspace(0, end, points, dtype=torch.float64)
        return evaluation.decision_line(subject.models[name], x, y, directions[name], t)

    boundary = crossing(*along(next(iter(subject.models)), 1.0, 101)[:2])
    end = 1.0 if boundary is None else 1.5 * boundary  # an image is in [0, 1]
    return plots.line_figure({name: along(name, end, 61) for name in subject.models})


def hessians(subject: Subject) -> Figure:
    x, y = subject.one()
    found = {
        name: evaluation.decision_hessian(model, x, y, step=IMAGE_STEP)[0]
        for name, model in subject.models.items()
    }
    label = "|entry of the Hessian of S|, logit / (unit of x)²"
    return plots.hessian_figure(found, label=f"{label}\n(by differences of ±{IMAGE_STEP:g})")


def jacobians(subject: Subject) -> Figure:
    some = subject.known()[:MAPS]
    if not len(some):
        raise ValueError("no test image is classified correctly by every model")
    x, y = subject.x[some], subject.y[some]
    maps = {
        name: evaluation.decision_gradient(model, x, y) for name, model in subject.models.items()
    }
    return plots.map_figure(x, maps)


def spectra(subject: Subject) -> Figure:
    x, y = subject.x[:SPECTRA], subject.y[:SPECTRA]
    entries, eigenvalues = {}, {}
    for name, model in subject.models.items():
        entries[name] = evaluation.decision_gradient(model, subject.x, subject.y)
        eigenvalues[name] = evaluation.hessian_eigenvalues(model, x, y, step=IMAGE_STEP)
    second = f"eigenvalue of the Hessian of S\n(by differences of ±{IMAGE_STEP:g})"
    return plots.spectra_figure(entries, eigenvalues, second=second)


def accuracy(subject: Subject) -> Figure:
    """Draw eps from 0 to 1.5 eps_ref, that of the last model."""
    last = list(subject.models.values())[-1]
    reference = evaluation.reference_epsilon(last, subject.x, subject.y)
    epsilons = torch.linspace(0, 1.5 * reference, 16, dtype=torch.float64).tolist()
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
    first = next(iter(subject.models.values()))
    x = deepfool(first, subject.x).adversarial
    curves = {
        name: evaluation.roc_curves(model, x, subject.y) for name, model in subject.models.items()
    }
    own = next(iter(curves.values()))
    return plots.roc_figure(curves, sorted(sorted(own, key=lambda k: own[k].auc)[:2]))


PICTURES: dict[str, Callable[[Subject], Figure]] = {
    "accuracy": accuracy,
    "accuracy-jsma": accuracy_jsma,
    "cells": planes.cells,
    "decision": planes.decision,
    "decision-relief": planes.decision_relief,
    "hessians": hessians,
    "jacobians": jacobians,
    "line": line,
    "loss": planes.loss,
    "perturbations": perturbations,
    "roc": roc,
    "spaces": planes.spaces,
    "spaces-relief": planes.spaces_relief,
    "spectra": spectra,
}
