"""Hessians as pictures: the entries, one scale for all, zeros in white."""

import numpy as np
import pytest
import torch

from jacfast.plots import hessian_figure, png

SMALL = torch.tensor([[2.0, -0.05], [-0.05, 0.0]])
LARGE = torch.tensor([[300.0, 1.0], [1.0, float("nan")]])


def shade(axis, value):
    return axis.images[0].to_rgba(np.array([[value]]))[0, 0].tolist()


def panels(figure):
    return [axis for axis in figure.axes if axis.get_title()]


def test_entries_are_drawn_on_one_scale():
    figure = hessian_figure({"natural": LARGE, "robust": SMALL}, threshold=0.01, step=0.05)
    one, two = panels(figure)
    np.testing.assert_allclose(two.images[0].get_array(), SMALL.abs())
    assert one.images[0].norm is two.images[0].norm
    edges = one.images[0].norm.boundaries
    np.testing.assert_allclose(edges, [0.01, 0.1, 1, 10, 100, 1000])
    shades = [shade(one, 2 * edge) for edge in edges[:-1]]
    assert len({tuple(s) for s in shades}) == 5
    assert [1.0] * 4 not in shades
    assert shade(one, 0.009) == shade(one, 0.0) == [1.0] * 4
    assert one.images[0].get_array().mask.tolist() == [[False, False], [False, True]]  # NaN
    assert one.images[0].cmap.get_bad().tolist() == [1.0] * 4
    assert shade(one, 9.0) == shade(two, 1.1) != shade(two, 0.9)
    labels = [text.get_text() for text in figure.axes[-1].get_yticklabels()]
    assert labels == ["0.01", "0.1", "1", "10", "100", "1000"]
    assert figure.axes[-1].get_ylabel().endswith("(unit of x)²\n(by differences of ±0.05)")
    png(figure)


def test_norm_and_share_are_of_all_entries():
    figure = hessian_figure({"m": SMALL}, threshold=0.01)
    assert figure.axes[-1].get_ylabel().endswith("(unit of x)²")
    (axis,) = panels(figure)
    assert axis.get_title() == "m: Frobenius norm 2\n25.0% below 0.01"  # sqrt(4.005)
    (axis,) = panels(hessian_figure({"m": torch.full((3, 3), 2e-3)}))
    assert axis.get_title() == "m: Frobenius norm 0.006\n0.0% below 0.001"


@pytest.mark.parametrize("value", [0.0, 1e-9, 1.0, 1000.0, float("inf"), float("nan")])
def test_constant_ones_are_drawn(value):
    figure = hessian_figure({name: torch.full((1, 1), value) for name in "abc"})
    assert figure.axes[0].images[0].norm.vmin == 1e-3
    assert figure.axes[0].images[0].norm.vmax >= (value if np.isfinite(value) else 0)
    png(figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hessian_figure({}), "hessians must hold one model"),
        (lambda: hessian_figure({"m": torch.ones(2, 3)}), r"'m' has \[2, 3\]"),
        (lambda: hessian_figure({"m": torch.ones(1, 2, 2)}), r"must be \[D, D\]"),
        (lambda: hessian_figure({"m": SMALL}, threshold=0.0), "threshold must be finite and > 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
