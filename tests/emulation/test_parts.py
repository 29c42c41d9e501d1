"""Faults can be planted: each has its place, and the parts are all of them, each fault in one."""

import pytest

from tests.emulation.build import ROOT
from tests.emulation.mutate import FAULTS, chosen


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_parts_are_the_whole(parts):
    some = [chosen(f"{number}/{parts}") for number in range(10 * parts, 11 * parts)]
    assert all(some)
    assert sorted(repr(fault) for part in some for fault in part) == sorted(map(repr, FAULTS))


def test_a_word_is_no_part():
    assert 0 < len(chosen("row_norm")) < len(FAULTS)
    assert chosen("") == FAULTS


def test_every_fault_still_has_its_place():
    gone = [fault for fault in FAULTS if fault.old not in (ROOT / fault.file).read_text()]
    assert not gone


@pytest.mark.parametrize("sources", ["csrc/cpu/*.cpp", "csrc/kernels/*.cuh"])
def test_every_source_of_a_life_has_a_fault(sources):
    planted = {fault.file for fault in FAULTS}
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob(sources)} <= planted
