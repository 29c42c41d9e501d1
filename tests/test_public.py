"""Tables of tests have a row for each public name of their kind."""

import importlib

import pytest

from jacfast.commands import attack as commands
from tests import public

# By table, what has no row there, as it is no such attack: DeepFool returns a result, not images;
# jsma needs a target by itself.
OF_ATTACKS = {
    "attacks.test_attack_result.ATTACKS": set(),
    "attacks.test_every_attack.ATTACKS": {"deepfool"},
    "attacks.test_fgsm.BOXED": set(),
    "attacks.test_per_channel.ATTACKS": set(),
    "attacks.test_targets.ATTACKS": {"deepfool", "jsma"},
    "attacks.test_units.ATTACKS": set(),
    "attacks.test_whole.OPTIONS": {"deepfool"},
    "calling.test_call.CALLS": set(),
    "calling.test_in_place.USES": set(),
    "calling.test_outputs.OF_CLASSES": set(),
    "calling.test_quiet.CALLS": set(),
    "calling.test_words.CALLS": set(),
    "test_without_graph.CALLS": set(),
}
OF_PENALTIES = {
    "penalties.formulas.PENALTIES": lambda table: table.values(),
    "penalties.test_cost.PASSES": lambda table: [penalty for penalty, _ in table.values()],
    "penalties.test_functions.FORMS": lambda table: [penalty for _, _, penalty in table],
    "step.test_gradients.PENALTIES": lambda table: table.values(),
    "step.test_seen.WATCHED": lambda table: table,
    "timing.test_verify.ESTIMATES": lambda table: table,
}


def table_of(place):
    module, name = place.rsplit(".", 1)
    return getattr(importlib.import_module(f"tests.{module}"), name)


def test_the_kinds():
    assert {"deepfool", "pgd"} <= set(public.ATTACKS)
    assert {"Frobenius", "R1"} <= set(public.PENALTIES)
    assert {"frobenius_penalty", "r1_penalty"} <= set(public.FUNCTIONS)
    assert {"deepfool", "accuracy", "robustness_report"} <= set(public.WITH_ARGUMENTS)


@pytest.mark.parametrize("place", OF_ATTACKS)
def test_every_attack_has_a_row(place):
    assert public.left_out(public.ATTACKS, table_of(place)) == OF_ATTACKS[place]


def test_every_attack_is_a_command():
    assert set(commands.EVERY) == set(public.ATTACKS)


@pytest.mark.parametrize("place", OF_PENALTIES)
def test_every_penalty_has_a_row(place):
    rows = OF_PENALTIES[place](table_of(place))
    assert {type(row).__name__ for row in rows} == set(public.PENALTIES)


def test_every_function_of_logits_is_compared_with_its_object():
    forms = {function for function, *_ in table_of("penalties.test_functions.FORMS")}
    assert forms == set(public.FUNCTIONS)


def test_arguments_of_the_model_go_along_everywhere():
    tables = [table_of(f"calling.test_call.{name}") for name in ("CALLS", "ONE", "MEANS", "SETS")]
    rows = [row for table in tables for row in table]
    elsewhere = {"bench", "forward_with_penalty", "robustness_report"}  # have tests of their own
    assert public.left_out(public.WITH_ARGUMENTS, rows) == elsewhere


def test_no_measure_returns_a_graph():
    rows = [*table_of("test_without_graph.CALLS"), *table_of("test_without_graph.NUMBERS")]
    differentiable = {"deep_defense_penalty", "forward_with_penalty"}
    numpys = {"bench", "roc_curves"}  # by NumPy, or of time
    assert public.left_out(public.WITH_ARGUMENTS, rows) == differentiable | numpys
