"""Colours: one of a method in every picture, in one no two alike, and readers see them apart."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jacfast.plots import accuracy_figure
from jacfast.plots.colours import CLASSES, COLOURS, METHODS, classes, lines
from jacfast.reproduce import load, names

TABLES = {name: load(name) for name in names()}
DRAWN = {  # the methods of each picture that has lines
    **{f"{name}, curves": [row.name for row in t.rows] for name, t in TABLES.items() if t.curves},
    **{f"{name}, pictures": t.pictured for name, t in TABLES.items() if t.pictured},
}
# Machado, Oliveira & Fernandes 2009, table 1, of severity 1: linear RGB as it is seen.
SEEN = {
    "all cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, seen):
    """Return CIE L*a*b* of a colour as it is seen."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.array(SEEN[seen]) @ linear, 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colours, seen):
    """Return the distance of the two colours that are most alike; 2.3 can just be seen."""
    return min(
        np.linalg.norm(lab(a, seen) - lab(b, seen)) for a, b in itertools.combinations(colours, 2)
    )


def styles(methods):
    return {name: (style["color"], style["linestyle"]) for name, style in lines(methods)}


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("seen", SEEN)
def test_the_methods_of_a_picture_can_be_told_apart(drawn, seen):
    assert nearest([colour for colour, _ in styles(DRAWN[drawn]).values()], seen) > 12


@pytest.mark.parametrize("seen", SEEN)
def test_so_can_models_of_any_name(seen):
    assert nearest(COLOURS, seen) > 12
    assert nearest(CLASSES, seen) > 7


def test_a_method_has_one_colour_in_all_pictures():
    found = {}
    for methods in DRAWN.values():
        for name, style in styles(methods).items():
            found.setdefault(name, set()).add(style)
    drawn_once = {"lambda 0", "lambda 50"}  # weights, not methods
    assert found.keys() - drawn_once <= METHODS.keys()
    assert all(len(each) == 1 for each in found.values())


def test_whatever_stands_beside_it():
    whole = list(METHODS)
    for part in (whole[:3], whole[::-2], ["mine", "Jacobian"], ["Jacobian", "mine", "no defence"]):
        colours = [colour for colour, _ in styles(part).values()]
        assert len(set(colours)) == len(part)
        for name in ("Jacobian", "cross-Lipschitz + AT"):
            if name in part:
                assert styles(part)[name] == METHODS[name]


@pytest.mark.parametrize("count", [9, 12, 13, 40])
def test_as_many_colours_as_models(count):
    curves = {f"model {i}": [1.0, i / count] for i in range(count)}
    axis = accuracy_figure([0, 1], curves).axes[0]
    assert len({line.get_color() for line in axis.lines}) == count


def test_classes():
    assert classes([3, 9]) == {3: CLASSES[3], 9: CLASSES[9]}
    many = classes([*range(30), 999])
    assert len(set(many.values())) == 31
    assert [many[k] for k in range(10)] == list(CLASSES)
