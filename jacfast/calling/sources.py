"""Sources of random numbers outside PyTorch: those of Python and NumPy."""

import random
import sys
from collections.abc import Iterable
from typing import Any


class Sources:
    """Where some sources are, to see whether they moved, and to put them back."""

    def __init__(self, sources: Iterable[Any]) -> None:
        self._states = [(source, _state(source)) for source in sources]

    def moved(self) -> bool:
        """Say whether one is elsewhere now."""
        return any(_plain(_state(one)) != _plain(state) for one, state in self._states)

    def now(self) -> "Sources":
        """Return where the same sources are now."""
        return Sources(source for source, _ in self._states)

    def put(self) -> None:
        """Put them where they were."""
        for source, state in self._states:
            if isinstance(source, random.Random):
                source.setstate(state)
            elif hasattr(source, "set_state"):
                source.set_state(state)
            else:
                getattr(source, "bit_generator", source).state = state


def of_process() -> list[Any]:
    """Return the sources behind the functions of `random` and of `numpy.random`."""
    numpy = sys.modules.get("numpy.random")
    own: list[Any] = [random.getstate.__self__]  # type: ignore[attr-defined]
    return own if numpy is None else [*own, numpy.get_state.__self__]


def is_source(thing: Any) -> bool:
    """Say whether it is a source whose state can be read."""
    if isinstance(thing, random.Random):
        return not isinstance(thing, random.SystemRandom)
    numpy = sys.modules.get("numpy.random")
    kinds = () if numpy is None else (numpy.Generator, numpy.RandomState, numpy.BitGenerator)
    return isinstance(thing, kinds)


def _state(source: Any) -> Any:
    if isinstance(source, random.Random):
        return source.getstate()
    if hasattr(source, "get_state"):
        return source.get_state(legacy=False)
    return getattr(source, "bit_generator", source).state


def _plain(state: Any) -> Any:
    """Return a state as what can be compared."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tobytes() if hasattr(state, "tobytes") else state
