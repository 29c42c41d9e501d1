"""Let a recording leave nothing behind: the model and all random numbers are as they were."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from jacfast.calling import Draws, State
from jacfast.calling.sources import Sources, of_process
from jacfast.step.asked import Asked
from jacfast.step.traced.objects import is_asked
from jacfast.step.traced.refuse import Refused


@contextlib.contextmanager
def leaving_nothing(asked: Asked, sources: Iterable[Any]) -> Iterator[None]:
    """Let model, penalty, arguments and all random numbers be as they were after the context.

    `sources` are those that the call is given; Python and NumPy have their own for the process.
    """
    still = _still(Sources([*of_process(), *sources]))
    # what a recording would write to parameters is refused before
    state = State(asked.model, copied=0, arguments=asked.arguments, beside=asked.penalty)
    draws, cached = Draws(asked.x.device), torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # it holds casts of weights, which no graph has made
    try:
        with state.again(), draws.again(), still:
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)


@contextlib.contextmanager
def _still(sources: Sources) -> Iterator[None]:
    """Refuse what draws from these, and put them back."""
    moved = False
    try:
        yield
    finally:
        if sources.moved():
            sources.put()
            moved = True
    if moved:
        raise Refused("random numbers of Python or NumPy, or of a source of the model's own")


@contextlib.contextmanager
def asking_nobody(model: nn.Module) -> Iterator[None]:
    """Refuse a call that asks a module's trainer, optimiser or loader for anything.

    They change in every step, so no key holds what they say.
    """
    asked: list[str] = []
    held = [
        (names, name, value, _unasked(value, f"{name} of a {type(module).__name__}", asked))
        for module in model.modules()
        for names in (vars(module),)
        for name, value in names.items()
        if is_asked(value)
    ]
    for names, name, _, instead in held:
        names[name] = instead
    try:
        yield
    finally:
        for names, name, value, instead in held:
            if names.get(name) is instead:
                names[name] = value
    if asked:  # by what has caught the error
        raise Refused(asked[0])


def _unasked(thing: Any, what: str, asked: list[str]) -> Any:
    """Return an object in the place of another, which refuses to be asked but for its class."""

    class Unasked:
        def __getattribute__(self, name: str) -> Any:
            if name == "__class__":
                return type(thing)
            asked.append(f"the {what}, which is asked for its {name}")
            raise Refused(asked[-1])

    return Unasked()
