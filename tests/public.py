"""The public names of each kind: what a table of tests must have a row for, or takes its rows from.

A name that is added to the package is in here by itself.
"""

import inspect
import re
from collections.abc import Iterable
from types import ModuleType

import jacfast
from jacfast import evaluation, penalties
from jacfast.penalties import Penalty


def _names(package: ModuleType, holds) -> list[str]:
    return [name for name in package.__all__ if holds(getattr(package, name))]


def _is_attack(value) -> bool:
    return callable(value) and hasattr(value, "result")


def _is_penalty(value) -> bool:
    return inspect.isclass(value) and issubclass(value, Penalty) and value is not Penalty


def _takes_logits(value) -> bool:
    return inspect.isfunction(value) and next(iter(inspect.signature(value).parameters)) == "logits"


def _takes_arguments(value) -> bool:
    """Say whether it takes a model and the model's further arguments."""
    own = inspect.signature(value).parameters if inspect.isfunction(value) else {}
    return "args" in own and "kwargs" in own


ATTACKS = _names(jacfast, _is_attack)
PENALTIES = _names(penalties, _is_penalty)
FUNCTIONS = _names(penalties, _takes_logits)
WITH_ARGUMENTS = _names(jacfast, _takes_arguments) + _names(evaluation, _takes_arguments)


def left_out(names: Iterable[str], table: Iterable[str]) -> set[str]:
    """Return the names for which a table has no row; a row may be of some option ("pgd-2")."""
    return set(names) - {re.split("[-, ]", row)[0] for row in table}
