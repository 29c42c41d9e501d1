"""Faults to plant, one at a time, each of which a test must turn red for."""

from typing import NamedTuple


class Fault(NamedTuple):
    """One place of a file of the project that is changed."""

    what: str
    file: str
    old: str
    new: str
    tests: str  # in tests/ops; of loops, in tests/attacks
