"""Surfaces and cells: what is drawn is what was measured."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.patches import Circle

from jacfast.evaluation import Surface
from jacfast.plots import cells_figure, contour_figure, png, relief_figure
from jacfast.plots.cells import _inside
from jacfast.plots.colours import classes
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


def test_colours_part_at_the_boundary_whichever_side_is_larger():
    (axis,) = panels(contour_figure({"m": {"x": surface(start=-3.0)}}))  # from 1 to -7
    assert (axis.collections[0].norm.vmin, axis.collections[0].norm.vmax) == (-7.0, 7.0)


@pytest.mark.parametrize("draw", [contour_figure, relief_figure])
def test_a_panel_without_a_boundary_says_so(draw):
    """A flat panel of one colour, and one that is wrong all over; but not one with a boundary."""
    grid = {
        "m": {"flat": surface(slope=0.0), "wrong": surface(slope=0, start=-1.0), "S": surface()}
    }
    figure = draw(grid)
    said = [
        [t.get_text() for t in axis.texts if "boundary" in t.get_text()] for axis in figure.axes
    ]
    assert said[:3] == [["no boundary\nwithin ±2"], ["no boundary\nwithin ±2"], []]
    assert not any(
        "boundary" in t.get_text() for t in draw({"m": {"": surface("loss")}}).axes[0].texts
    )


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


def logits(*planes):
    """Return the surface of a linear classifier: z_k = c + d a + e b, of each (c, d, e)."""
    a, b = torch.meshgrid(STEPS, STEPS, indexing="ij")
    values = torch.stack([c + d * a + e * b for c, d, e in planes], dim=-1)
    return Surface(STEPS, values, "logits", "input")


PLANES = {  # by model: z_k = c + d a + e b, of three classes
    "one": [(0, -1, 0), (0, 0, -1), (-1.3, 1, 0)],
    "two": [(1, 0, 0), (0, 0, -9), (-9, 0, 0)],
}
PLACES = [(-1.8, -1.7), (1.8, -1.7), (1.8, 1.7), (1.0, 0.6), (0.6, 1.2), (-0.6, 0.9)]


def test_cells_have_the_radius_and_the_classes_their_place_and_colour():
    radii = {"one": torch.tensor(0.25), "two": 1.0}
    figure = cells_figure({name: logits(*planes) for name, planes in PLANES.items()}, radii)
    pixels = imread(io.BytesIO(png(figure)))[::-1]  # the lowest row first
    for axis, name in zip(panels(figure), PLANES, strict=True):
        (circle,) = (patch for patch in axis.patches if isinstance(patch, Circle))
        assert (circle.center, circle.radius) == ((0, 0), radii[name])
        for a, b in PLACES:
            i, j = axis.transData.transform((a, b)).round().astype(int)
            z = [c + d * a + e * b for c, d, e in PLANES[name]]
            want = to_rgb(classes([z.index(max(z))]).popitem()[1])
            np.testing.assert_allclose(pixels[j, i, :3], want, atol=0.02)


def test_the_edge_of_the_image_s_cell_is_drawn_where_it_is_and_smooth():
    """Between the points of the surface, and not in steps of them."""
    slanted = logits((1.3, -1.0, 0.2), (0.0, 0.0, 0.0))  # a = 1.3 + 0.2 b
    (axis,) = panels(cells_figure({"m": slanted}, {"m": 1.3}))
    edge = max(axis.collections, key=lambda lines: max(lines.get_linewidths()))
    edge = np.concatenate([path.vertices for path in edge.get_paths()])
    np.testing.assert_allclose(edge[:, 0], 1.3 + 0.2 * edge[:, 1], atol=1e-5)
    assert np.ptp(edge[:, 1]) == pytest.approx(4)
    assert np.diff(np.sort(edge[:, 1])).max() < 0.02
    stairs = labels(slanted.values.argmax(dim=-1).tolist())
    assert len(png(cells_figure({"of labels": stairs}, {"of labels": 1.3}))) > 5000


def test_one_cell_alone_has_no_boundary():
    (axis,) = panels(cells_figure({"m": logits((1.0, 0, 0), (0.0, 0, 0))}, {"m": 9.0}))
    assert [text.get_text() for text in axis.texts] == ["no boundary\nwithin ±2"]


def test_names_stand_outside_the_circle():
    found = Surface(torch.linspace(-2, 2, 81, dtype=torch.float64), None, "logits", "input")
    a = found.steps[:, None].expand(81, 81)
    found = found._replace(values=torch.stack([0 * a, a - 0.9], dim=-1))
    (axis,) = panels(cells_figure({"m": found}, {"m": 0.9}))
    places = {text.get_text(): text.get_position() for text in axis.texts}
    assert places.keys() == {"0", "1"}
    assert all(a**2 + b**2 > 0.9**2 for a, b in places.values())


def test_a_name_stands_inside_its_cell_and_off_the_image():
    cell = torch.zeros(31, 31, dtype=torch.bool)
    cell[2:9, 20:27] = True
    assert _inside(cell, 3) == (5, 23)
    assert _inside(torch.eye(31, dtype=torch.bool), 3) is None
    i, j = _inside(torch.ones(31, 31, dtype=torch.bool), 2)
    assert max(abs(i - 15), abs(j - 15)) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contour_figure({}), "grid must have rows"),
        (lambda: contour_figure({"a": {}}), "grid must have rows"),
        (lambda: contour_figure({"a": {"x": surface()}, "b": {"y": surface()}}), "same columns"),
        (lambda: relief_figure({"a": {"x": surface("label")}}), "grid must hold losses"),
        (lambda: cells_figure({}, {}), "surfaces must hold one model"),
        (lambda: cells_figure({"a": surface()}, {"a": 1.0}), "surfaces must hold logits or labels"),
        (lambda: cells_figure({"a": surface("label")}, {}), "radii must have each model's"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("of", ["logits", "label"])
def test_where_logits_are_nan_there_is_no_cell(of):
    """White, not the colour of the cell around it, and no name of a class."""
    found = logits((2.0, 1, 0), (0.0, 0, 0))  # class 0 everywhere but at a < -2
    values = found.values.clone()
    corner = slice(-len(values) // 3, None)
    values[corner, corner] = float("nan")
    if of == "label":
        values = torch.where(values.isnan().any(-1), -1, values.argmax(dim=-1)).double()
    figure = cells_figure({"m": found._replace(values=values, of=of)}, {"m": 0.5})
    pixels = imread(io.BytesIO(png(figure)))[::-1]
    (axis,) = panels(figure)
    for place, colour in (((1.8, 1.8), "white"), ((-1.0, -1.0), classes([0]).popitem()[1])):
        i, j = axis.transData.transform(place).round().astype(int)
        np.testing.assert_allclose(pixels[j, i, :3], to_rgb(colour), atol=0.02)
    nothing = torch.full_like(values, float("nan") if of == "logits" else -1)
    with pytest.raises(ValueError, match="must have a class somewhere"):
        cells_figure({"m": found._replace(values=nothing, of=of)}, {"m": 0.5})
