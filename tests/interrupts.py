"""Interrupts at every moment at which one can come."""

import sys
from collections.abc import Callable, Collection, Iterator


def interrupts(run: Callable[[], object], files: Collection[str], event: str) -> Iterator[int]:
    """Call `run` again and again, interrupted at the next moment each time; yield its number.

    An interrupt comes where CPython looks for one: as a function begins ("call"), or after a call
    ("c_return"). Those of code in `files` count. It ends when `run` ends by itself.
    """
    at, count = 0, 1

    def profile(frame, kind, _):
        nonlocal count
        if kind == event and frame.f_code.co_filename in files:
            count += 1
            if count == at:
                raise KeyboardInterrupt

    while count >= at:
        at, count = at + 1, 0
        sys.setprofile(profile)
        try:
            run()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        if count >= at:
            yield at
