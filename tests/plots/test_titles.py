"""Words: whatever the models are called, they stay on the page and do not overprint each other."""

import itertools
from unittest import mock

import pytest
import torch

from jacfast import deepfool, models
from jacfast.evaluation import Line, Roc, Surface
from jacfast.plots import (
    accuracy_figure,
    cells_figure,
    contour_figure,
    hessian_figure,
    line_figure,
    map_figure,
    perturbation_figure,
    relief_figure,
    roc_figure,
    spectra_figure,
)
from jacfast.plots.style import inches, wrapped
from jacfast.reproduce import report
from tests.reproduce.test_show import result_of

NAMES = {
    "of a table": ["natural", "gradient of the decision function + adversarial training"],
    "wide": ["W" * 70, "M" * 70],
    "four": [f"gradient of the cross-entropy, weight {i}" for i in range(4)],
    "one": ["1: /home/me/experiments/2026-11/resnet50_W0.03_on_images_of_another_set/hardened.pt"],
}
STEPS = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
DIRECTIONS = ["random", "CE, true label", "CE, least likely", "margin loss"]


def surface(of="decision"):
    return Surface(STEPS, (3 - 2 * STEPS)[:, None].expand(5, 5).contiguous(), of, "input")


def cells(names):
    logits = torch.stack([0 * STEPS, STEPS - 1], dim=1)[:, None].expand(5, 5, 2)
    found = Surface(STEPS, logits, "logits", "input")
    return cells_figure(dict.fromkeys(names, found), dict.fromkeys(names, 1.0))


def perturbations(names):
    torch.manual_seed(0)
    x, net = torch.rand(3, 1, 8, 8), models.mlp(64, 16, 4).eval()
    found = deepfool(net, x)
    return perturbation_figure(x, found.before, dict.fromkeys(names, found), rows=2)


def roc(classes):
    end = torch.tensor([0.0, 1.0])
    found = {k: Roc(end, end, 0.5) for k in range(classes)}
    return lambda names: roc_figure(dict.fromkeys(names, found))


def table(names):
    result = result_of(**dict.fromkeys(names, (1, 2)))
    result["table"]["columns"] = ["fgsm 0.011765", "fgsm own", "mean_value", "hessian_zeros 65.6"]
    for row in result["rows"]:
        row |= {key: 4 * row[key] for key in ("paper", "ours", "sd")}
    with mock.patch.object(report, "png", lambda figure: figure):
        return report.figure(result)


T = torch.linspace(0, 2, 5, dtype=torch.float64)
STEEP = Line(T * 1e-4, 12345 - 67890 * T, torch.full_like(T, -67890e-4))
FIVE, IMAGES = torch.ones(1, 5), torch.rand(2, 1, 4, 4)
GRID = {direction: surface() for direction in DIRECTIONS}
PAIR = {direction: surface() for direction in DIRECTIONS[:2]}
LOSS, MARGIN = surface("loss"), surface()
MIXED = {"loss": LOSS, "S": MARGIN, "loss, FGSM": LOSS, "S, FGSM": MARGIN}
FIGURES = {
    "accuracy": lambda names: accuracy_figure([0, 1], {name: [1.0, 0.5] for name in names}),
    "cells": cells,
    "contours": lambda names: contour_figure(dict.fromkeys(names, GRID)),
    "contours of one": lambda names: contour_figure({name: {"": surface()} for name in names}),
    "hessians": lambda names: hessian_figure(dict.fromkeys(names, torch.eye(20))),
    "lines": lambda names: line_figure(dict.fromkeys(names, STEEP)),
    "maps": lambda names: map_figure(IMAGES, dict.fromkeys(names, IMAGES)),
    "perturbations": perturbations,
    "mixed contours": lambda names: contour_figure(dict.fromkeys(names, MIXED)),
    "mixed relief": lambda names: relief_figure(dict.fromkeys(names, MIXED)),
    "relief of four": lambda names: relief_figure(dict.fromkeys(names, GRID)),
    "relief": lambda names: relief_figure(dict.fromkeys(names, PAIR)),
    "roc of one": roc(1),
    "roc of three": roc(3),
    "spectra": lambda names: spectra_figure(*[dict.fromkeys(names, FIVE)] * 2),
    "table": table,
}


def texts(figure):
    """Return the texts that depend on names or must not be covered, with the boxes they fill."""
    found = [text for legend in figure.legends for text in legend.get_texts()] + figure.texts
    for axis in figure.axes:
        found += [axis.title, axis.xaxis.label, axis.yaxis.label] if axis.name != "3d" else []
        found += axis.get_legend().get_texts() if axis.get_legend() else []
        found += [axis.title]
    for _ in range(2):  # as for a PNG
        figure.draw_without_rendering()
    return {text: text.get_window_extent() for text in found if text.get_text()}


def overlap(one, two):
    """Return whether two boxes have dots in common."""
    return one.x0 < two.x1 and two.x0 < one.x1 and one.y0 < two.y1 and two.y0 < one.y1


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("kind", FIGURES)
def test_words_stay_on_the_page_and_apart(kind, names):
    figure = FIGURES[kind](NAMES[names])
    boxes, page = texts(figure), figure.bbox
    for text, box in boxes.items():
        assert page.x0 <= box.x0, text
        assert box.x1 <= page.x1, text
        assert page.y0 <= box.y0, text
        assert box.y1 <= page.y1, text
    for one, two in itertools.combinations(boxes, 2):
        assert not overlap(boxes[one], boxes[two]), (one, two)


@pytest.mark.parametrize("draw", [contour_figure, relief_figure])
@pytest.mark.parametrize(
    "row", [MIXED, dict(list(MIXED.items())[:3]), {"a": LOSS, "b": LOSS, "c": MARGIN}]
)
def test_bars_of_colours_lie_apart(draw, row):
    figure = draw({"one": row, "two": row})
    for _ in range(2):
        figure.draw_without_rendering()
    boxes = [axis.get_tightbbox() for axis in figure.axes if axis.get_label() == "<colorbar>"]
    assert len(boxes) == 2
    assert not overlap(*boxes)


@pytest.mark.parametrize("draw", [FIGURES["accuracy"], FIGURES["spectra"], FIGURES["roc of one"]])
def test_many_names_leave_the_graph_its_room(draw):
    figure = draw([f"{number}: {'a model of some kind ' * 3}" for number in range(20)])
    for _ in range(2):
        figure.draw_without_rendering()
    graph = figure.axes[0].get_window_extent()
    assert graph.height / figure.dpi > 2  # inches
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 < graph.y0


@pytest.mark.parametrize("names", [["_best"], ["_best", "__last"], ["", "other"], ["_" * 70]])
@pytest.mark.parametrize("kind", ["accuracy", "roc of one", "roc of three", "spectra"])
def test_a_name_that_matplotlib_would_leave_out_is_in_the_legend(kind, names):
    figure = FIGURES[kind](names)
    (legend,) = figure.legends
    assert ["".join(text.get_text().split()) for text in legend.get_texts()] == names


@pytest.mark.parametrize(("draw", "columns"), [(contour_figure, 4), (relief_figure, 2)])
def test_what_a_panel_says_is_inside_and_covers_no_axis(draw, columns):
    flat = surface()._replace(values=torch.ones(5, 5), steps=123.456 * STEPS)
    figure = draw({name: dict.fromkeys(DIRECTIONS[:columns], flat) for name in ("one", "two")})
    for _ in range(2):
        figure.draw_without_rendering()
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert len(panels) == 2 * columns
    for axis in panels:
        (said,) = (text for text in axis.texts if "boundary" in text.get_text())
        box, panel = said.get_window_extent(), axis.get_window_extent()
        assert panel.x0 <= box.x0 < box.x1 <= panel.x1
        assert panel.y0 <= box.y0 < box.y1 <= panel.y1
        beside = [axis.title, axis.xaxis.label, axis.yaxis.label]
        beside += [*axis.get_xticklabels(), *axis.get_yticklabels()]
        assert not any(overlap(box, text.get_window_extent()) for text in beside)


@pytest.mark.parametrize("width", [0.8, 1.7, 4.0])
@pytest.mark.parametrize("name", [name for names in NAMES.values() for name in names])
def test_wrapped_lines_are_as_wide_as_they_may_be(name, width):
    lines = wrapped(f"{name}\nrandom", width).split("\n")
    assert all(inches(line) <= width for line in lines)
    assert lines[-1] == "random"
    assert "".join(lines[:-1]).replace(" ", "") == name.replace(" ", "")


def test_what_fits_is_left_as_it_is():
    assert wrapped("natural", 2.0) == "natural"
    assert wrapped("gradient of the decision function", 1.9) == "gradient of the decision\nfunction"
