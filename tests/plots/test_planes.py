"""Surfaces and cells: what is drawn is what was measured."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib.patches import Circle

from jacfast.evaluation import Surface
from jacfast.plots import cells_figure, contour_figure, png, relief_figure
from jacfast.plots.cells import _inside
from jacfast.plots.surfaces import crossing

STEPS = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)


def surface(of="decision", space="input", slope=-2.0, start=3.0):
    return Surface(STEPS, (start + slope * STEPS)[:, None].expand(5, 5).contiguous(), of, space)


def panels(figure):
    return [axis for axis in figure.axes if axis.get_title()]


@pytest.mark.parametrize(
    ("slope", "start", "want"),
    [(-2.0, 3.0, 1.5), (-1.0, 1.0, 1.0), (1.0, 1.0, None), (-1, -1, None)],
)
def test_crossing(slope, start, want):
    assert crossing(surface(slope=slope, start=start)) == want


def test_contours_share_one_scale_and_show_the_boundary():
    grid = {"natural": {"up": surface()}, "robust": {"up": surface(slope=-0.5, start=0.5)}}
    figure = contour_figure(grid)
    one, two = panels(figure)
    assert one.get_title() == "natural\nup"
    scales = {(axis.collections[0].norm.vmin, axis.collections[0].norm.vmax) for axis in (one, two)}
    assert scales == {(-7.0, 7.0)}  # symmetric about the boundary
    for axis, place in ((one, 1.5), (two, 1.0)):
        boundary = max(axis.collections, key=lambda lines: max(lines.get_linewidths()))
        across = np.concatenate([path.vertices for path in boundary.get_paths()])
        np.testing.assert_allclose(across[:, 0], place, atol=1e-12)  # a is the horizontal axis
    assert "1.50" in [text.get_text() for text in one.texts]
    assert one.get_xlabel() == "a, units of x (L2)"


@pytest.mark.parametrize("draw", [contour_figure, relief_figure])
def test_long_names_stay_over_their_panels(draw):
    columns = ["random", "CE, true label", "CE, least likely", "margin loss"]
    figure = draw({"gradient of the decision function": {column: surface() for column in columns}})
    figure.canvas.draw()
    boxes = sorted((axis.title.get_window_extent() for axis in panels(figure)), key=lambda b: b.x0)
    assert len(boxes) == 4
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert boxes[-1].x1 <= figure.bbox.x1


def test_parameter_space_has_its_own_scale_and_no_arrow():
    grid = {"m": {"p": surface("loss", "parameter"), "x": surface("loss", slope=9.0)}}
    figure = contour_figure(grid)
    one, two = panels(figure)
    assert one.collections[0].norm.vmax == 7.0
    assert two.collections[0].norm.vmax == 21.0
    assert one.get_xlabel() == "a, 1: norm of the weights"
    labels = {axis.get_xlabel() for axis in figure.axes}
    assert {"cross-entropy, parameter space", "cross-entropy, input space"} <= labels


def test_losses_that_round_to_zero_have_no_line_between_them():
    noisy = Surface(STEPS, torch.zeros(5, 5, dtype=torch.float64), "loss", "input")
    noisy.values[::2, ::2] = 1e-7
    noisy.values[4] = 8.0
    (axis,) = panels(contour_figure({"m": {"x": noisy}}))
    lines = axis.collections[-1]
    assert 0.5 in lines.levels
    drawn = [path.vertices for path in lines.get_paths() if len(path.vertices)]
    assert min(points[:, 0].min() for points in drawn) > 1.0  # on the slope from 0 to 8


@pytest.mark.parametrize("draw", [contour_figure, relief_figure])
def test_flat_and_infinite_surfaces_are_drawn(draw):
    flat = surface("loss", slope=0.0, start=0.0)
    odd = surface("loss")._replace(values=torch.full((5, 5), float("inf")))
    assert len(png(draw({"m": {"flat": flat, "odd": odd, "S": surface(slope=0.0)}}))) > 5000


def test_relief_has_the_heights():
    figure = relief_figure({"a": {"S": surface()}, "b": {"S": surface(slope=0.1, start=0.0)}})
    one, two = panels(figure)
    assert one.get_zlim() == two.get_zlim() == (-1.0, 7.0)
    assert len(one.collections) == len(two.collections) == 2  # the surface and its boundary
    png(figure)


def labels(values):
    return Surface(STEPS, torch.tensor(values, dtype=torch.float64), "label", "input")


def test_cells():
    cells = labels([[3.0] * 5, [3.0] * 5, [3.0] * 5, [3, 3, 3, 3, 7], [7.0] * 5])
    figure = cells_figure({"one": cells, "two": cells}, {"one": 0.5, "two": 1.25})
    for axis, radius in zip(panels(figure), (0.5, 1.25), strict=True):
        (circle,) = (patch for patch in axis.patches if isinstance(patch, Circle))
        assert (circle.center, circle.radius) == ((0, 0), radius)
        drawn = axis.images[0].get_array()
        assert drawn[0].tolist() == [0, 0, 0, 0, 1]  # the lowest row: b = -2, a from left to right
        assert drawn[4].tolist() == [0, 0, 0, 1, 1]
        assert axis.images[0].get_extent() == [-2.5, 2.5, -2.5, 2.5]


def test_a_name_stands_inside_its_cell_and_off_the_image():
    cell = torch.zeros(31, 31, dtype=torch.bool)
    cell[2:9, 20:27] = True
    assert _inside(cell) == (5, 23)
    assert _inside(torch.eye(31, dtype=torch.bool)) is None
    i, j = _inside(torch.ones(31, 31, dtype=torch.bool))
    assert max(abs(i - 15), abs(j - 15)) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contour_figure({}), "grid must have rows"),
        (lambda: contour_figure({"a": {}}), "grid must have rows"),
        (lambda: contour_figure({"a": {"x": surface()}, "b": {"y": surface()}}), "same columns"),
        (lambda: relief_figure({"a": {"x": surface("label")}}), "grid must hold losses"),
        (lambda: cells_figure({}, {}), "surfaces must hold one model"),
        (lambda: cells_figure({"a": surface()}, {"a": 1.0}), "surfaces must hold labels"),
        (lambda: cells_figure({"a": surface("label")}, {}), "radii must have each model's"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
