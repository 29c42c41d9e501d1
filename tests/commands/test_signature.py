"""The help of an attack's options: made of docstrings, in the words of a command line."""

import argparse
import inspect

import pytest

from jacfast.commands import attack, signature

NONE = [  # options that may be none
    (name, option)
    for name, function in attack.EVERY.items()
    for option, parameter in inspect.signature(function).parameters.items()
    if option in ("candidates", "levels")
    or (option == "clip" and name not in ("carlini_wagner", "ddn", "fmn"))  # finite there
]


def helps(name: str) -> dict[str, str]:
    parser = argparse.ArgumentParser(prog="jacfast")
    signature.add_options(parser, attack.EVERY[name])
    return {action.dest: action.help for action in parser._actions if action.dest != "help"}


@pytest.mark.parametrize("name", attack.EVERY)
def test_every_option_has_words_that_fit_a_command_line(name):
    for option, words in helps(name).items():
        assert words.split(" (default")[0], option
        for foreign in ("tensor", "None", "`", "(low, high)", ".."):
            assert foreign not in words, option


@pytest.mark.parametrize(("name", "option"), NONE)
def test_that_an_option_may_be_none_is_said(name, option):
    assert "none" in helps(name)[option].split(" (default")[0]


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        (
            "pgd",
            "step_size",
            "in the p-norm, > 0. Default 2.5 eps / steps, which",
        ),
        ("bim", "step_size", "in the p-norm, > 0. Default 1.25 eps / steps"),
        ("bim", "steps", "how many, >= 1; each costs one vector-Jacobian product (default: 10)"),
        ("pgd", "loss", "of Carlini & Wagner (default: cross-entropy)"),
        ("deepfool", "candidates", "largest clean logits first; none: all (default: 10)"),
        ("deepfool", "clip", "but for roundings, or none (default: none)"),
        ("jsma", "pixels", "it is clipped. Or 2: pairs, as in the paper; each pixel once (default"),
        ("ddn", "levels", ">= 2; none: any (default: 256)"),
        ("fmn", "alpha_final", "the last one, > 0; default: a hundredth of the first"),
    ],
)
def test_what_is_said(name, option, words):
    assert words in helps(name)[option]
