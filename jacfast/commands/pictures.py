"""Each picture of `jacfast plot`, from models and test images to the figure."""

from collections.abc import Callable

import torch
from matplotlib.figure import Figure

from jacfast import evaluation, plots
from jacfast.commands import attacked, planes
from jacfast.commands.subject import Subject
from jacfast.evaluation.hessian import IMAGE_STEP
from jacfast.evaluation.line import crossing

MAPS, SPECTRA = 4, 2  # images shown, images whose whole Hessian is computed


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
    return plots.hessian_figure(found, step=IMAGE_STEP)


def jacobians(subject: Subject) -> Figure:
    some = subject.known()[:MAPS]
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


PICTURES: dict[str, Callable[[Subject], Figure]] = {
    "accuracy": attacked.accuracy,
    "accuracy-jsma": attacked.accuracy_jsma,
    "cells": planes.cells,
    "decision": planes.decision,
    "decision-relief": planes.decision_relief,
    "hessians": hessians,
    "jacobians": jacobians,
    "line": line,
    "loss": planes.loss,
    "loss-relief": planes.loss_relief,
    "perturbations": attacked.perturbations,
    "perturbations-fgsm": attacked.perturbations_fgsm,
    "roc": attacked.roc,
    "spaces": planes.spaces,
    "spaces-relief": planes.spaces_relief,
    "spectra": spectra,
}
