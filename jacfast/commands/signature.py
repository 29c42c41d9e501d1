"""The options of a function as those of a command: from its signature and its docstring."""

import argparse
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import torch

from jacfast.attacks.stream import defaults
from jacfast.commands.arguments import number

GENERAL = ("batch_size", "progress", "args", "kwargs", "output")  # not for words here
PER_SAMPLE = "[N] int64, "  # what a docstring says of labels
NONE = ("none", "all")  # words for None


class Called(Exception):
    """The model is called: all arguments are accepted."""


def add_options(parser: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    """Add an option for each keyword argument that words can give; only given ones are passed on.

    ``target`` is one class for all samples. Masks, subspaces and generators have no option.
    """
    words = described(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name not in GENERAL:
            _add(parser, parameter, words.get(name, ""))


def _add(parser: argparse.ArgumentParser, parameter: inspect.Parameter, words: str) -> None:
    name, default = parameter.name, parameter.default
    needed = default is parameter.empty
    union = typing.get_origin(parameter.annotation) in (types.UnionType, typing.Union)
    kinds = {*typing.get_args(parameter.annotation)} if union else {parameter.annotation}
    read = _reader(name, kinds)
    if read is None:
        return
    words = words.replace(PER_SAMPLE, "one class for all images: ").removeprefix("(low, high), ")
    unsaid = needed or (default is None and "none" not in words)
    shown = "" if unsaid else f" (default: {_word(default)})"
    options: dict[str, Any] = {"help": (words + shown).replace("%", "%%")}
    if bool in kinds:
        options |= {"action": argparse.BooleanOptionalAction}
    else:
        options |= {"type": read, "metavar": "LOW,HIGH" if read is _pair else name.upper()}
    flag = f"--{name.replace('_', '-')}"
    parser.add_argument(flag, default=argparse.SUPPRESS, required=needed, **options)


def _reader(name: str, kinds: set[Any]) -> Callable[[str], Any] | None:
    """Return what reads a value of one of these types; None if words cannot give one."""
    if name == "target":
        return _or_none(_integer) if type(None) in kinds else _integer
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return _pair
    if any(typing.get_origin(kind) is typing.Literal for kind in kinds):
        return _or_none(str) if type(None) in kinds else str
    for kind, read in ((float, number), (int, _integer), (bool, bool), (str, str)):
        if kind in kinds:
            return _or_none(read) if type(None) in kinds else read
    return None


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text in NONE else read(text)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer; got {text!r}") from None


def _pair(text: str) -> tuple[float, ...] | None:
    if text in NONE:
        return None
    pair = tuple(number(part) for part in text.split(","))
    if len(pair) != 2:
        raise argparse.ArgumentTypeError(f"must be LOW,HIGH or none; got {text!r}")
    return pair


def _word(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(f"{part:g}" for part in default)
    return NONE[0] if default is None else str(default)


def described(function: Callable[..., Any]) -> dict[str, str]:
    """Return what the docstring's section Args says of each argument, in a command line's words.

    What a docstring leaves to that of another function of its module is that one's.
    """
    text = inspect.getdoc(function) or ""
    other = re.search(r"^Arguments.* those of `(\w+)`", text, re.M)
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", text + "\n", re.M)
    entries = (
        re.findall(r"^    (\S[^:\n]*): ((?:.*\n)(?:     .*\n|\n)*)", section[1], re.M)
        if section
        else []
    )
    found = described(vars(sys.modules[function.__module__])[other[1]]) if other else {}
    for names, words in entries:
        found |= {name.strip(): _said(words) for name in names.split(",")}
    return found


def _said(words: str) -> str:
    """Return the first sentence, and those that name a choice or default; nothing of tensors."""
    plain = re.sub(r"\bNone\b", NONE[0], re.sub(r"\s+", " ", words.replace("`", "")).strip())
    first, *others = re.split(r"(?<=[^.][.;]) (?=[A-Z\"])", plain)
    said = [first, *(other for other in others if re.match(r"(Or|Default)\b", other))]
    clauses = ([c for c in each.split("; ") if "tensor" not in c] for each in said)
    return ". ".join("; ".join(each).rstrip(".;") for each in clauses)


def check_options(attack: Callable[..., Any], labels: bool, options: dict[str, Any]) -> None:
    """Check options by calling the attack with a model that is never reached.

    Raises:
        TypeError, ValueError: as the attack.
    """

    def model(_x: torch.Tensor) -> torch.Tensor:
        raise Called

    box = {**defaults(attack), **options}.get("clip")
    # the box's nearest point to 0.5, and not zero: the report divides by an image's length
    inside = 0.5 if box is None else sorted((0.5, *box))[1] or box[0]
    y = torch.zeros(1, dtype=torch.int64)
    reach = options.get("target")
    given = {**options, **({} if reach is None else {"target": y + reach})}
    try:
        attack(model, torch.full((1, 1, 2, 2), inside), y if labels else None, **given)
    except Called:
        return
