"""What is drawn is given by the names of models: anything else is refused, in words."""

import pytest
import torch
from torch import nn

import jacfast
from jacfast import plots
from jacfast.evaluation.surfaces import Surface

X = torch.rand(2, 1, 3, 3)
SURFACE = Surface(torch.linspace(-1, 1, 3), torch.rand(3, 3), "decision", "input")


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (lambda junk: plots.accuracy_figure([0.1], junk), "curves"),
        (lambda junk: plots.cells_figure(junk, {}), "surfaces"),
        (lambda junk: plots.contour_figure(junk), "grid"),
        (lambda junk: plots.contour_figure({"a": junk}), "grid"),
        (lambda junk: plots.hessian_figure(junk), "hessians"),
        (lambda junk: plots.line_figure(junk), "found"),
        (lambda junk: plots.map_figure(X, junk), "maps"),
        (lambda junk: plots.perturbation_figure(X, torch.zeros(2).long(), junk), "results"),
        (lambda junk: plots.relief_figure(junk), "grid"),
        (lambda junk: plots.roc_figure(junk), "curves"),
        (lambda junk: plots.roc_figure({"a": junk}), "curves"),
        (lambda junk: plots.spectra_figure(junk, {}), "entries"),
        (lambda junk: plots.spectra_figure({"a": X}, junk), "eigenvalues"),
    ],
)
def test_the_container_and_what_is_in_it(draw, name):
    for junk in ([SURFACE], SURFACE, X, None):
        with pytest.raises(TypeError, match=f"^{name} must "):
            draw(junk)
    with pytest.raises(TypeError, match=f"^{name} must have a .* for each name; 'b' has a object"):
        draw({"b": object()})


def test_radii_are_numbers_by_name():
    for junk, words in (
        ([0.1], "a dict, by the names of models"),
        ({"a": "b"}, "a number; got str"),
    ):
        with pytest.raises(TypeError, match=f"radii must be {words}"):
            plots.cells_figure({}, junk)


def test_sizes_of_attacks_are_numbers():
    with pytest.raises(TypeError, match="epsilons must be a list of numbers; got float"):
        plots.accuracy_figure(0.1, {"a": [1.0]})
    curve = torch.tensor([1.0, 0.5])
    (axis,) = plots.accuracy_figure(torch.tensor([0.0, 0.25]), {"a": curve}).axes
    assert axis.lines[0].get_xydata().tolist() == [[0, 100], [0.25, 50]]


def test_what_is_no_container():
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor; got list"):
        plots.map_figure([X], {"a": X})
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    found = jacfast.deepfool(model, X)
    with pytest.raises(TypeError, match="must have a DeepFoolResult for each name; 'after' has a"):
        plots.hardening_figure(X, model(X).argmax(1), found, found.adversarial)
