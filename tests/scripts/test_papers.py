"""docs/papers.md names what there is, and every table and picture."""

import functools
import re
from pathlib import Path

import pytest

import jacfast
from jacfast import attacks, evaluation, models, training
from jacfast.commands.plot import NAMES
from jacfast.reproduce import names

PAGE = (Path(__file__).parents[2] / "docs" / "papers.md").read_text()
CODE = re.findall(r"`([^`]+)`", PAGE)
SHORT = {"-b", "-c"}  # of seck-table3


def test_every_table_and_picture_is_on_the_page():
    ends = re.findall(r"`(\w+)-table(\d+)` to `\w+-table(\d+)`", PAGE)
    said = {f"{who}-table{i}" for who, a, b in ends for i in range(int(a), int(b) + 1)}
    said |= {f"seck-table3{code}" for code in SHORT} | set(CODE)
    assert set(names()) <= said
    assert set(NAMES) <= {code.removeprefix("plot ") for code in CODE}


@pytest.mark.parametrize(
    "call", sorted({row.split("|")[2] for row in PAGE.splitlines() if "|" in row})
)
def test_every_call_exists(call):
    for code in re.findall(r"`([^`]+)`", call):
        name = re.split(r"[( ]", code)[0]
        places = [jacfast, attacks, evaluation, models, training]
        if name != "jacfast":
            assert any(resolves(place, name) for place in places), name


def resolves(place, name):
    try:
        functools.reduce(getattr, name.split("."), place)
    except AttributeError:
        return False
    return True


def test_tables_that_are_named_exist():
    tables = [code for code in CODE if re.match(r"(jg|seck|yu|deep-defense)(-|$)", code)]
    assert set(tables) <= set(names())
