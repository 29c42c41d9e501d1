"""Which tests run, in which order, with which numbers: tests/conftest.py."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import pytest_collection_modifyitems as chosen

AT_IMPORT = torch.rand(3)


def item(name, marks=()):
    return SimpleNamespace(nodeid=name, get_closest_marker={mark: mark for mark in marks}.get)


def items(**tests):
    names = [f"{name}[{parameters}]" for name, all_ in tests.items() for parameters in all_]
    return [item(name) for name in [*names, "alone"]]


def config(one_in, dropped, one_life=False):
    hook = SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items))
    return SimpleNamespace(getoption={"--one-in": one_in, "--one-life": one_life}.get, hook=hook)


def test_every_test_and_every_value_is_met_by_a_fifth():
    product = [f"{a}-{b}-{c}" for a, b, c in itertools.product("xyz", "pq", "123456")]
    found, dropped = items(many=product, few=["only"]), []
    everything = [item.nodeid for item in found]
    chosen(config(5, dropped), found)
    left = [item.nodeid for item in found]
    assert len(left) == 8 + 1 + 1
    assert {"few[only]", "alone"} <= set(left)
    assert set("xyzpq123456") <= set("".join(name[5:-1] for name in left if "many" in name))
    assert sorted(left + [item.nodeid for item in dropped]) == sorted(everything)


def test_one_in_one_is_everything():
    found, dropped = items(many="abcdefg"), []
    chosen(config(1, dropped), found)
    assert len(found) == 8
    assert dropped == []


def test_each_case_has_one_of_the_lives_and_each_life_a_case():
    found, dropped, lives = [], [], ("small", "large")
    for life, size in itertools.product(lives, range(20)):
        found.append(item(f"op[{life}-{size}]"))
        found[-1].callspec = SimpleNamespace(params={"life": life, "size": size})
    found.append(item("alone"))
    chosen(config(1, dropped, one_life=True), found)
    left = [each.nodeid for each in found]
    assert len(left) == 20 + 1
    assert {name.split("-")[-1] for name in left} == {f"{size}]" for size in range(20)} | {"alone"}
    assert all(any(life in name for name in left) for life in lives)
    assert len({*left, *(each.nodeid for each in dropped)}) == 41


def test_what_takes_long_comes_first_and_the_others_stay_in_their_order():
    found = [item("a"), item("b", ["slow"]), item("c", ["other"]), item("d", ["slow"])]
    chosen(config(1, []), found)
    assert [each.nodeid for each in found] == ["b", "d", "a", "c"]


@pytest.fixture(scope="module")
def shared():
    return torch.rand(3)


def drawn(seed):
    return torch.rand(3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("_time", range(2))
def test_numbers_do_not_depend_on_what_ran_before(shared, _time):
    assert torch.equal(torch.rand(3), drawn(0))
    assert torch.equal(AT_IMPORT, drawn(1))
    assert torch.equal(shared, drawn(2))
