"""Progress: a bar in a terminal; elsewhere, in a log, a line now and then; or nothing."""

import contextlib
import contextvars
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

FIRST, EVERY = 5.0, 30.0  # seconds to the first line, and between lines, without a terminal
_silent = contextvars.ContextVar("silent", default=False)


@contextlib.contextmanager
def silent(yes: bool = True) -> Iterator[None]:
    """Show no progress inside the context."""
    token = _silent.set(yes)
    try:
        yield
    finally:
        _silent.reset(token)


class Lines(tqdm):
    """A bar of which every state is a line of its own."""

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """Return what writes a state: the end of a line comes before the next, and at the end."""
        lines: list[str] = []

        def write(state: str) -> None:
            file.write("\n" * bool(lines) + state)
            file.flush()
            lines.append(state)

        return write


def watch(iterable: Any = None, **options: Any) -> Any:
    """Return tqdm over `iterable`, or by hand, with its `options`, as it fits where it is shown."""
    if _silent.get():
        options["disable"] = True
    if sys.stderr is None or not sys.stderr.isatty():
        options |= {"mininterval": EVERY, "maxinterval": EVERY, "delay": FIRST}
        return Lines(iterable, **options)
    return tqdm(iterable, **options)
