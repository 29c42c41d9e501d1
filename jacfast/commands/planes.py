"""The pictures of `jacfast plot` that are of the surroundings of an image: planes of inputs."""

from typing import Literal

from matplotlib.figure import Figure
from torch import nn

from jacfast import evaluation, plots
from jacfast.commands.subject import Subject
from jacfast.evaluation import Surface
from jacfast.evaluation.directions import Direction

PARAMETER_EXTENT, PARAMETER_SAMPLES = 1.0, 100
TITLES: dict[Direction, str] = {
    "random": "random",
    "loss": "CE, true label",
    "least_likely": "CE, least likely",
    "margin": "margin loss",
}


def cells(subject: Subject) -> Figure:
    x, y = subject.one()
    radii = {name: float(found.norm[0]) for name, found in subject.attacked(x).items()}
    first = next(iter(subject.models.values()))
    directions = evaluation.plane(
        *(evaluation.input_direction(first, x, y, seed=seed)[0] for seed in (0, 1))
    )
    extent = 12 * max(radii.values())  # a random direction is nearly at right angles to r
    surfaces = {
        name: evaluation.input_surface(model, x, y, directions, extent, of="label", points=121)
        for name, model in subject.models.items()
    }
    return plots.cells_figure(surfaces, radii)


def _inputs(
    subject: Subject, of: Literal["loss", "decision"], kinds: tuple[Direction, ...]
) -> dict[str, dict[str, Surface]]:
    """Return a surface per model and first direction; the second one is random."""
    x, y = subject.one()
    extent = 2 * max(float(found.norm[0]) for found in subject.attacked(x).values())

    def surface(model: nn.Module, kind: Direction) -> Surface:
        first = evaluation.input_direction(model, x, y, kind, seed=0)[0]
        second = evaluation.input_direction(model, x, y, "random", seed=1)[0]
        return evaluation.input_surface(
            model, x, y, evaluation.plane(first, second), extent, of=of, points=41
        )

    return {
        name: {TITLES[kind]: surface(model, kind) for kind in kinds}
        for name, model in subject.models.items()
    }


def decision(subject: Subject) -> Figure:
    return plots.contour_figure(_inputs(subject, "decision", tuple(TITLES)))


def loss(subject: Subject) -> Figure:
    return plots.contour_figure(_inputs(subject, "loss", tuple(TITLES)))


def loss_relief(subject: Subject) -> Figure:
    return plots.relief_figure(_inputs(subject, "loss", ("random", "loss")))


def decision_relief(subject: Subject) -> Figure:
    return plots.relief_figure(_inputs(subject, "decision", ("random", "margin")))


def _spaces(subject: Subject) -> dict[str, dict[str, Surface]]:
    grid = _inputs(subject, "loss", ("loss",))
    x, y = subject.x[:PARAMETER_SAMPLES], subject.y[:PARAMETER_SAMPLES]
    return {
        name: {
            "in parameter space": evaluation.parameter_surface(
                model, x, y, evaluation.parameter_directions(model), PARAMETER_EXTENT, points=15
            ),
            "in input space": next(iter(grid[name].values())),
        }
        for name, model in subject.models.items()
    }


def spaces(subject: Subject) -> Figure:
    return plots.contour_figure(_spaces(subject))


def spaces_relief(subject: Subject) -> Figure:
    return plots.relief_figure(_spaces(subject))
