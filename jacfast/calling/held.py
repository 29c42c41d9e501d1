"""Flags of other people's objects, held at a value for a while by any number of calls at once."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_LOCK = threading.RLock()  # one for all: a call holds flags of several kinds


class Hold:
    """A flag that is held at `value`: the first who takes it notes what it was, the last restores.

    Per object, so that two models may share some of theirs. Whoever else sets the flag meanwhile
    has the last word: what it was set to is what it is left at. Both `take` and `give_back` may be
    interrupted anywhere, and called again.

    Args:
        value: what the flag is held at.
        read: returns the flag of an object; None if it has none.
        write: sets it.
    """

    def __init__(
        self, value: Any, read: Callable[[Any], Any], write: Callable[[Any, Any], None]
    ) -> None:
        self.value, self.read, self.write = value, read, write
        self._own: dict[int, tuple[Any, Any]] = {}  # by id: the object, and its flag as it was
        self._holders: dict[int, set[object]] = {}

    def take(self, thing: Any, holder: object) -> None:
        """Set the flag of `thing`, on behalf of `holder`."""
        now = self.read(thing)
        if now is None:
            return
        if id(thing) not in self._own or now != self.value:
            self._own[id(thing)] = thing, now
        self._holders.setdefault(id(thing), set()).add(holder)
        if now != self.value:
            self.write(thing, self.value)

    def give_back(self, thing: Any, holder: object) -> None:
        """Let go of the flag of `thing`; restore it if nobody else holds it."""
        holders = self._holders.get(id(thing), set())
        holders.discard(holder)
        if holders or id(thing) not in self._own:
            return
        own = self._own[id(thing)][1]
        if own != self.value == self.read(thing):
            self.write(thing, own)
        self._holders.pop(id(thing), None)
        del self._own[id(thing)]

    def lift(self) -> bool:
        """Restore every flag that is held, for good; say whether there was one to restore."""
        with _LOCK:
            others = [(thing, own) for thing, own in self._own.values() if own != self.read(thing)]
            for thing, own in others:
                self.write(thing, own)
        return bool(others)


@contextlib.contextmanager
def held(wanted: Iterable[tuple[Hold, Any]]) -> Iterator[None]:
    """Hold the flags of these objects inside the context.

    Afterwards, also after an exception or an interrupt at any moment, each is as it was, unless
    another call still holds it: then as soon as that ends.
    """
    pairs, holder = list(wanted), object()
    try:
        with _LOCK:
            for hold, thing in pairs:
                hold.take(thing, holder)
        yield
    finally:
        interrupt, left = None, True  # not by `surely`: its call is a place for interrupts, too
        while left:
            try:
                with _LOCK:
                    for hold, thing in pairs:
                        hold.give_back(thing, holder)
                left = False
            except KeyboardInterrupt as error:  # once more: it can be done again
                interrupt = error
        if interrupt is not None:
            raise interrupt


def surely(undo: Callable[[], None]) -> None:
    """Do what can be done again, from the start after an interrupt, which is raised at the end."""
    interrupt, left = None, True
    while left:
        try:
            undo()
            left = False
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
