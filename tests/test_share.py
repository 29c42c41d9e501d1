"""A part of every test's parameters, for a second environment: tests/conftest.py."""

import itertools
from types import SimpleNamespace

from tests.conftest import pytest_collection_modifyitems as chosen


def items(**tests):
    names = [f"{name}[{parameters}]" for name, all_ in tests.items() for parameters in all_]
    return [SimpleNamespace(nodeid=name) for name in [*names, "alone"]]


def config(one_in, dropped):
    hook = SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items))
    return SimpleNamespace(getoption=lambda _: one_in, hook=hook)


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
