"""Lines and their tangents: what is drawn is what was measured."""

import numpy as np
import pytest
import torch

from jacfast.evaluation.line import Line
from jacfast.plots import line_figure, png

T = torch.linspace(0, 2, 5, dtype=torch.float64)
STRAIGHT = Line(T, 3 - 2 * T, torch.full_like(T, -2.0))
BENT = Line(T, 1 + T**2, 2 * T)


def drawn(axis):
    """Return the line of S and its two tangents, as points."""
    tangents = [line.get_xydata() for line in axis.lines if line.get_linestyle() == "--"]
    (curve,) = (line for line in axis.lines if line.get_label() == "S")
    return curve.get_xydata(), *tangents


def test_tangents_touch_the_curve_at_its_ends_with_its_slopes():
    (axis,) = line_figure({"m": BENT}).axes
    curve, first, last = drawn(axis)
    np.testing.assert_allclose(curve, np.stack([T, 1 + T**2], axis=1))
    np.testing.assert_allclose(first, [[0, 1], [0.8, 1]])
    np.testing.assert_allclose(last, [[2, 5], [1.2, 5 - 4 * 0.8]])


def test_of_a_straight_line_they_lie_on_it():
    (axis,) = line_figure({"m": STRAIGHT}).axes
    for points in drawn(axis):
        np.testing.assert_allclose(points[:, 1], 3 - 2 * points[:, 0])
    np.testing.assert_allclose(axis.lines[0].get_ydata(), 0)  # the boundary


def test_the_words_and_the_arrow_are_the_measured_change():
    figure = line_figure({"natural": STRAIGHT, "robust": BENT}, label="steps")
    one, two = figure.axes
    assert one.get_title() == ("natural: S = 0 at t = 1.5\nslope -2 at t = 0, -2 at t = 2; Δ = -4")
    assert two.get_title() == "robust: no boundary\nslope 0 at t = 0, 4 at t = 2; Δ = 4"
    for axis, ends in ((one, (3, -1)), (two, (1, 5))):
        arrow = next(text for text in axis.texts if text.arrow_patch is not None)
        assert (arrow.xyann, arrow.xy) == ((2, ends[0]), (2, ends[1]))
        assert axis.get_xlabel() == "steps"
        assert axis.get_ylim() == pytest.approx((-1.36, 5.36))  # of both, and a little more
    png(figure)


def test_three_models_and_values_that_are_not_finite():
    odd = Line(T, torch.tensor([1.0, 2.0, float("nan"), 3.0, float("inf")]), BENT.slope)
    figure = line_figure({"a": STRAIGHT, "b": BENT, "c": odd})
    assert [axis.axison for axis in figure.axes] == [True, True, True, False]
    assert figure.axes[0].get_ylim() == pytest.approx((-1.36, 5.36))
    png(figure)


def test_a_flat_line_at_the_boundary():
    figure = line_figure({"m": Line(T, 0 * T, 0 * T)})
    (axis,) = figure.axes
    for points in drawn(axis):
        np.testing.assert_array_equal(points[:, 1], 0)
    assert axis.get_ylim() == (-1, 1)  # of a range of 0 no share would be a margin
    png(figure)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "found must hold one model"),
        ({"m": Line(T[:1], T[:1], T[:1])}, "'m' has not"),
        ({"a": BENT, "m": Line(T.flip(0), T, T)}, "'m' has not"),
    ],
)
def test_errors(found, message):
    with pytest.raises(ValueError, match=message):
        line_figure(found)
