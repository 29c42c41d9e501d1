"""Containers among arguments that are passed as copies, as tensors in them are replaced."""

from collections.abc import Iterator
from typing import Any, NamedTuple


class Rebuilt(NamedTuple):
    """A list or dictionary, and the copy of it that a model gets, which may write to it."""

    given: Any
    passed: Any
    before: Any  # what the copy held before the call

    @property
    def written(self) -> bool:
        """Say whether the model has written to the copy."""
        now, before = _entries(self.passed), _entries(self.before)
        same = len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True))
        return not same or (isinstance(self.given, dict) and list(self.passed) != list(self.before))

    def carry(self) -> None:
        """Write to what was given what the model has written to the copy."""
        own = zip(_entries(self.before), _entries(self.given), strict=True)
        back = {id(copied): entry for copied, entry in own}
        now = [back.get(id(entry), entry) for entry in _entries(self.passed)]
        if isinstance(self.given, dict):
            now = dict(zip(self.passed, now, strict=True))  # type: ignore[assignment]
            self.given.clear()
            self.given.update(now)
        else:
            self.given[:] = now


def copies_in(given: Any, passed: Any) -> Iterator[Rebuilt]:
    """Yield the containers that are passed as copies, at whatever depth of tuples and their own."""
    if given is passed or not isinstance(given, dict | list | tuple):
        return
    if not isinstance(given, tuple):
        yield Rebuilt(given, passed, passed.copy())
    for one, other in zip(_entries(given), _entries(passed), strict=True):
        yield from copies_in(one, other)


def _entries(held: Any) -> list[Any]:
    return list(held.values() if isinstance(held, dict) else held)
