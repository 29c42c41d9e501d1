"""Curves, spectra, maps and rows of images: what is drawn is what was given."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from jacfast import (
    bim,
    carlini_wagner,
    ddn,
    deepfool,
    fgsm,
    fmn,
    jsma,
    minimal_norm,
    models,
    pgd,
)
from jacfast.evaluation import Roc
from jacfast.plots import (
    accuracy_figure,
    map_figure,
    perturbation_figure,
    png,
    roc_figure,
    spectra_figure,
)


def roc(auc, *points):
    x, y = torch.tensor(points, dtype=torch.float64).T
    return Roc(x, y, auc)


ONE = {0: roc(0.75, (0, 0), (0, 0.5), (0.5, 1), (1, 1)), 2: roc(0.5, (0, 0), (1, 1))}
TWO = {0: roc(1.0, (0, 0), (0, 1), (1, 1)), 1: roc(0.5, (0, 0), (1, 1))}


def test_accuracy():
    figure = accuracy_figure([0, 0.1, 0.3], {"a": [1, 0.5, 0], "b": [0.9, 0.8, 0.7]}, reference=0.4)
    axis = figure.axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    assert drawn["a"] == [[0, 100], [0.1, 50], [0.3, 0]]
    upright = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"]
    assert upright == pytest.approx([0.08, 0.2])  # 1.0 eps_ref lies beyond
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["a", "b"]
    png(figure)


def test_the_eps_of_an_attack_is_named():
    labels = {
        attack: accuracy_figure([0, 1], {"a": [1, 0]}, attack=attack).axes[0].get_xlabel()
        for attack in ("PGD", "JSMA")
    }
    assert labels["PGD"] == "eps of PGD, units of x (largest change of an entry)"
    assert labels["JSMA"] == "eps of JSMA, units of x (change of a pixel in a step)"


def test_roc():
    figure = roc_figure({"first": ONE, "second": TWO})
    (axis,) = figure.axes  # class 0 alone is in both
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    assert drawn["first"] == [[0, 0], [0, 0.5], [0.5, 1], [1, 1]]
    assert drawn["second"] == [[0, 0], [0, 1], [1, 1]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["first", "second"]
    assert axis.get_title() == "class 0: AUC 0.7500, 1.0000"
    assert len([a for a in roc_figure({"first": ONE}).axes if a.get_title()]) == 2


def test_spectra():
    entries = {"m": torch.tensor([[0.0, 1e-9], [0.5, -2.0]])}
    values = {"m": torch.tensor([[1.0, -4.0, 0.0], [2.0, 0.0, 0.0]])}
    figure = spectra_figure(entries, values, threshold=0.01)
    left, right = figure.axes
    assert left.get_title() == "m: 50.0% below 0.01"
    assert right.get_title() == "m: 50.0% below 0.01"
    assert right.lines[0].get_xydata().tolist() == [[1, 3.0], [2, 0.5]]
    corners = left.patches[0].get_xy()
    assert corners[:, 1].max() == pytest.approx(50)  # the two below the threshold share a bar
    heights = np.unique(corners[:, 1].round(6))
    assert heights.tolist() == [0, 25, 50]
    png(figure)


def test_dots_of_a_spectrum_where_there_is_room():
    few, many = torch.ones(1, 5), torch.ones(1, 300)
    figure = spectra_figure({"a": few, "b": few}, {"a": few, "b": many})
    assert [line.get_marker() for line in figure.axes[1].lines[:2]] == [".", ""]


def test_zeros_only():
    zero = {"m": torch.zeros(1, 3)}
    figure = spectra_figure(zero, zero)
    left, right = figure.axes
    assert left.get_title() == right.get_title() == "m: 100.0% below 0.001"
    corners = left.patches[0].get_xy()
    assert corners[1].tolist() == pytest.approx([1e-5, 100])  # all are in the first bar
    assert corners[3:, 1].max() == 0
    assert len(right.lines[0].get_xydata()) == 0
    png(figure)


def test_maps():
    x = torch.rand(2, 3, 4, 4)
    gradient = torch.zeros(2, 3, 4, 4)
    gradient[0, :, 1, 2] = torch.tensor([3.0, 0.0, -6.0])
    figure = map_figure(x, {"m": gradient})
    drawn = figure.axes[1].images[0]
    assert drawn.get_array()[1, 2] == -1.0
    assert drawn.get_clim() == (-1.0, 1.0)  # of what is drawn, the mean of the channels
    assert figure.axes[1].texts[0].get_text() == "2-norm 6.71"
    assert figure.axes[3].texts[0].get_text() == "2-norm 0"  # each map has its own
    png(figure)


def colours(figure):
    pixels = imread(io.BytesIO(png(figure)))[..., :3].reshape(-1, 3)
    return len(np.unique(pixels, axis=0))


def test_graphs_have_256_colours_and_images_all_of_theirs():
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert colours(map_figure(x, {"m": x})) > 32 * 32
    many = {f"model {i}": [1.0, i / 30] for i in range(30)}
    assert colours(accuracy_figure([0, 1], many)) <= 256


def attacked(channels=1):
    torch.manual_seed(0)
    x, net = torch.rand(6, channels, 8, 8), models.mlp(64 * channels, 16, 4).eval()
    found = deepfool(net, x)
    longer = dataclasses.replace(found, norm=3 * found.norm)
    return x, found, longer


@pytest.mark.parametrize("attack", [deepfool, minimal_norm, ddn, fmn, carlini_wagner])
def test_images_misclassified_from_the_start_are_not_shown(attack):
    """Attacks that were given the labels leave them as they are, and call them fooled."""
    torch.manual_seed(0)
    x, net = torch.rand(6, 1, 8, 8), models.mlp(64, 16, 4).eval()
    y = (net(x).argmax(dim=1) + 1) % 4
    figure = perturbation_figure(x, y, {"m": attack.result(net, x, y)})
    assert figure.get_suptitle() == "no image is classified correctly and fooled by every model"


@pytest.mark.parametrize("channels", [1, 3])
def test_rows(channels):
    x, found, longer = attacked(channels)
    figure = perturbation_figure(x, found.before, {"plain": found, "hard": longer}, rows=2)
    tags = [text.get_text() for axis in figure.axes for text in axis.texts]
    ratio = float(found.norm[0] / x[0].norm())
    assert f"{ratio:.2g}" in tags
    assert f"{3 * ratio:.2g} (3x)" in tags
    assert f"read as {int(found.label[0])}" in tags
    assert sum(bool(axis.images) for axis in figure.axes) == 2 * 5
    png(figure)


def test_differences_share_a_scale_and_one_of_each_class_comes_first():
    x, found, _ = attacked()
    before = torch.tensor([2, 2, 1, 2, 1, 0])
    found = dataclasses.replace(found, before=before, success=found.norm > 0)
    twice = {"r": 2 * found.r, "adversarial": x + 2 * found.r, "norm": 2 * found.norm}
    hard = dataclasses.replace(found, **twice)
    figure = perturbation_figure(x, before, {"plain": found, "hard": hard}, rows=4)
    rows = [figure.axes[5 * i : 5 * i + 5] for i in range(4)]
    shown = [5, 2, 0, 1]  # of the classes 0, 1 and 2, and then the next
    limit = float(2 * found.r[shown].abs().max())
    for i, row in zip(shown, rows, strict=True):
        image, *_, plain, far = (axis.images[0] for axis in row)
        np.testing.assert_allclose(image.get_array(), x[i, 0])
        np.testing.assert_allclose(plain.get_array(), found.r[i, 0])
        assert plain.get_clim() == far.get_clim() == pytest.approx((-limit, limit))


def test_results_of_any_attack():
    """Each in its own norm, and those of DeepFool beside others."""
    torch.manual_seed(0)
    x, net = torch.rand(6, 1, 8, 8), models.mlp(64, 16, 4).eval()
    y = net(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 4
    for attack, options in ((fgsm, {}), (bim, {}), (pgd, {}), (jsma, {"steps": 60})):
        found = attack.result(net, x, **options if attack is jsma else {"eps": 0.4})
        right = int((found.success[1:]).sum())
        assert right > 0
        figure = perturbation_figure(x, y, {"m": found})
        assert sum(bool(axis.images) for axis in figure.axes) == 3 * right
    both = {"DeepFool": deepfool(net, x), "minimal norm": minimal_norm.result(net, x)}
    right = int((both["DeepFool"].success & both["minimal norm"].success)[1:].sum())
    figure = perturbation_figure(x, y, both)
    assert sum(bool(axis.images) for axis in figure.axes) == 5 * right > 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": 0}, ValueError, "rows must be >= 1; got 0"),
        ({"rows": 1.5}, TypeError, "rows must be an integer; got 1.5"),
        ({"y": torch.zeros(2).long()}, ValueError, r"y must have shape \[N\] = \[6\]; got \[2\]"),
        ({"x": torch.rand(6, 1, 8, 8)}, ValueError, "x must be the images that were attacked"),
        ({"x": torch.rand(2, 1, 8, 8)}, ValueError, "x must have the shape of what was attacked"),
    ],
)
def test_rows_of_something_else(change, error, message):
    x, found, _ = attacked()
    given = {"x": x, "y": found.before, **change}
    with pytest.raises(error, match=message):
        perturbation_figure(results={"m": found}, **given)


def test_no_row_to_show():
    x, found, _ = attacked()
    figure = perturbation_figure(x, found.before + 1, {"m": found})
    assert figure.get_suptitle().startswith("no image is classified correctly")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy_figure([0, 1], {"a": [1.0]}), "curves must have a value for each of 2"),
        (lambda: roc_figure({}), "classes must be among"),
        (lambda: roc_figure({"a": ONE, "b": TWO}, [2]), r"classes must be among \[0\]"),
        (lambda: spectra_figure({}, {}), "must hold one model"),
        (
            lambda: spectra_figure({"a": torch.ones(2)}, {"a": torch.ones(2)}),
            r"eigenvalues must be \[N, D\]",
        ),
        (lambda: map_figure(torch.ones(1, 1, 2, 2), {}), "maps must hold one"),
        (
            lambda: map_figure(torch.ones(1, 1, 2, 2), {"m": torch.ones(1, 2, 2)}),
            "maps must have the shape of x",
        ),
        (
            lambda: map_figure(torch.ones(1, 2, 2, 2), {"m": torch.ones(1, 2, 2, 2)}),
            "x must hold images",
        ),
        (lambda: perturbation_figure(torch.ones(1, 1, 2, 2), torch.ones(1), {}), "results must"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
