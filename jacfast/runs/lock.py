"""One run at a time, by a lock that the system takes back when a process ends, killed or not."""

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # a system without flock: then there is no lock
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Hold the file `lock`, in a folder that exists, for this run; it is gone afterwards.

    On a file system without locks nothing is held.

    Args:
        what: what the run writes to, in words, for the error.

    Raises:
        ValueError: another run, in this process or another one, holds it.
    """
    file = _taken(lock, what)
    try:
        file.truncate(0)
        file.write(_words())
        file.flush()
        yield
    finally:
        lock.unlink(missing_ok=True)
        file.close()


def _taken(lock: Path, what: str) -> IO[str]:
    while True:
        file = lock.open("a+")
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = file.read() or "which has just started"
            file.close()
            raise ValueError(
                f"{what} is in use by another run, {other}: wait for its end, or use another place"
            ) from None
        except OSError:  # no locks on this file system
            return file
        if lock.exists() and lock.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()  # its owner has just removed it: make a new one


def _words() -> str:
    command = " ".join(sys.argv)
    return (
        f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')} "
        f"({command[:200]})"
    )
