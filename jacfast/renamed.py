"""Old names of arguments: they keep working, and say what they are called now."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from jacfast.calling.warning import warn

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take arguments under old names, too: ``@renamed(max_iter="steps")``.

    The function raises TypeError where an argument is given by both names.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            rename(names, kwargs)
            return function(*args, **kwargs)

        called.old_names = names  # type: ignore[attr-defined]
        return called

    return decorate


def rename(names: Mapping[str, str], options: dict[str, Any]) -> None:
    """Put options under their new names, in place, with a DeprecationWarning for each."""
    for old in names.keys() & options.keys():
        new = names[old]
        if new in options:
            raise TypeError(f"{new} and {old}, its old name, are one; got both")
        warn(f"{old} is now called {new}", DeprecationWarning)
        options[new] = options.pop(old)
