"""An attack of ours, and its options under the names of another toolbox."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args

from jacfast import checks
from jacfast.attacks.attack_result import AttackResult
from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.minimal_norm import check_choices, minimal_norm
from jacfast.attacks.options import Options

Name = Literal["deepfool", "minimal_norm"]
NAMES: tuple[str, ...] = get_args(Name)
ATTACKS: dict[str, Any] = {"deepfool": deepfool, "minimal_norm": minimal_norm}
WITH_THE_CALL = ("target", "start")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """An attack with its options, called with a model, images and labels."""

    attack: str
    options: dict[str, Any]

    def __call__(self, *given: Any, **more: Any) -> AttackResult:
        return ATTACKS[self.attack].result(*given, **{**self.options, **more})

    @property
    def title(self) -> str:
        """Its name as toolboxes write such names."""
        return {"deepfool": "DeepFool", "minimal_norm": "MinimalNorm"}[self.attack]


def choices(
    adapter: str,
    attack: str,
    names: Mapping[str, str],
    usual: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Chosen:
    """Return an attack with options: `usual` ones, and those given, which are checked.

    Args:
        adapter: the name of the function, for messages.
        attack: ``deepfool`` or ``minimal_norm``.
        names: what the toolbox calls an option, and what the attack calls it.
        usual: the toolbox's choices, by the names of the attack.
        options: by either name.

    Raises:
        TypeError: there is no such option, or one is given by both names; or as the attack.
            ValueError: as the attack, under the name that was given; or there is no such attack.
    """
    checks.one_of("attack", attack, NAMES)
    parameters = inspect.signature(ATTACKS[attack]).parameters.items()
    defaults = {
        name: parameter.default
        for name, parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and name not in WITH_THE_CALL
    }
    names = {theirs: own for theirs, own in names.items() if own in defaults}
    given: dict[str, Any] = {}
    called: dict[str, str] = {}
    for name, value in options.items():
        own = names.get(name, name)
        if own not in defaults:
            known = ", ".join(sorted({*defaults, *names}))
            raise TypeError(f"{adapter} takes no option {name}; it takes {known}")
        if own in given:
            raise TypeError(f"{adapter} takes {called[own]} or {name}, which are one; got both")
        given[own], called[own] = value, name
    chosen = {**usual, **given}
    try:
        _check(attack, {**defaults, **chosen})
    except (TypeError, ValueError) as error:
        own, rule = str(error).split(" ", 1)
        raise type(error)(f"{called.get(own, own)} {rule}") from None
    return Chosen(attack, chosen)


def _check(attack: str, options: Mapping[str, Any]) -> None:
    if attack == "minimal_norm":
        check_choices(**{name: options[name] for name in ("p", "budget", "candidates", "clip")})
        return
    fields = {field.name for field in dataclasses.fields(Options)} & set(options)
    Options(**{name: options[name] for name in fields}).check()
