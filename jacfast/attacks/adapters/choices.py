"""Options of `deepfool` under the names of another toolbox."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.options import Options

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(deepfool).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name != "target"  # labels come with the call
}


def choices(
    adapter: str, names: Mapping[str, str], usual: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return options of `deepfool`: `usual` ones, and those given, which are checked.

    Args:
        adapter: the name of the function, for messages.
        names: what the toolbox calls an option, and what `deepfool` calls it.
        usual: the toolbox's choices, by the names of `deepfool`.
        options: by either name.

    Raises:
        TypeError: there is no such option, or one is given by both names; or as `deepfool`.
            ValueError: as `deepfool`, under the name that was given.
    """
    given: dict[str, Any] = {}
    called: dict[str, str] = {}
    for name, value in options.items():
        own = names.get(name, name)
        if own not in DEFAULTS:
            known = ", ".join(sorted({*DEFAULTS, *names}))
            raise TypeError(f"{adapter} takes no option {name}; it takes {known}")
        if own in given:
            raise TypeError(f"{adapter} takes {called[own]} or {name}, which are one; got both")
        given[own], called[own] = value, name
    chosen = {**usual, **given}
    fields = {field.name for field in dataclasses.fields(Options)} & set(DEFAULTS)
    try:
        Options(**{name: chosen.get(name, DEFAULTS[name]) for name in fields}).check()
    except (TypeError, ValueError) as error:
        own, rule = str(error).split(" ", 1)
        raise type(error)(f"{called.get(own, own)} {rule}") from None
    return chosen
