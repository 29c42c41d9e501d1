"""The pictures of `jacfast plot` that are of the surroundings of an image: planes of inputs."""

from typing import Literal

from matplotlib.figure import Figure
from torch import nn

from jacfast import evaluation, plots
from jacfast.commands.subject import Subject
from jacfast.evaluation import Surface
from jacfast.evaluation.directions import Direction

PARAMETER_EXTENT, PARAMETER_SAMPLES = 1.0, 100
CELLS, EXTENTS = 2.5, (2.0, 4.0, 8.0, 16.0)  # times the longest ||r||_2 of DeepFool
Value = Literal["loss", "decision"]
TITLES: dict[Direction, str] = {
    "random": "random",
    "loss": "CE, true label",
    "least_likely": "CE, least likely",
    "margin": "margin loss",
}


def cells(subject: Subject) -> Figure:
    """Draw the plane of each model's own r and a random direction, all on one scale."""
    x, y = subject.one()
    found = subject.attacked(x)
    for name, result in found.items():
        if not bool(result.success):
            raise ValueError(f"cells needs a DeepFool image of each model; none is found of {name}")
    radii = {name: float(result.norm[0]) for name, result in found.items()}
    extent = CELLS * max(radii.values())

    def surface(name: str, model: nn.Module) -> Surface:
        second = evaluation.input_direction(model, x, y, "random", seed=1)[0]
        directions = evaluation.plane(found[name].r[0], second)
        return evaluation.input_surface(model, x, y, directions, extent, of="logits", points=81)

    return plots.cells_figure({n: surface(n, m) for n, m in subject.models.items()}, radii)


def _inputs(
    subject: Subject, of: Value, kinds: tuple[Direction, ...]
) -> dict[str, dict[str, Surface]]:
    """Return a surface per model and first direction; the second one is random.

    The planes of a direction are equally wide: the least of `EXTENTS` that shows a boundary of one
    of the models, or the last.
    """
    x, y = subject.one()
    radius = max(float(found.norm[0]) for found in subject.attacked(x).values())

    def surfaces(kind: Direction, extent: float, of: Value, points: int) -> dict[str, Surface]:
        found = {}
        for name, model in subject.models.items():
            first = evaluation.input_direction(model, x, y, kind, seed=0)[0]
            second = evaluation.input_direction(model, x, y, "random", seed=1)[0]
            directions = evaluation.plane(first, second)
            found[name] = evaluation.input_surface(
                model, x, y, directions, extent, of=of, points=points
            )
        return found

    columns = {}
    for kind in kinds:
        for times in EXTENTS:
            coarse = surfaces(kind, times * radius, "decision", 9)
            if any(bool((surface.values < 0).any()) for surface in coarse.values()):
                break
        columns[TITLES[kind]] = surfaces(kind, times * radius, of, 41)
    return {name: {kind: columns[kind][name] for kind in columns} for name in subject.models}


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
