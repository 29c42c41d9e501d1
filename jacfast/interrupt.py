"""Ctrl-C while the command line imports PyTorch, which takes seconds: one line, no traceback.

It is the first import of the package, and does something for the process of the command line alone:
``jacfast`` or ``python -m jacfast``. `jacfast.cli.main` takes over when it begins.
"""

import os
import signal
import sys
import threading
from types import FrameType


def _is_command() -> bool:
    words = sys.orig_argv[1:]
    module = "-m" in words and words[words.index("-m") + 1 :][:1] == ["jacfast"]
    return module or (bool(words) and os.path.basename(words[0]) == "jacfast")


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"\njacfast: interrupted; nothing was begun\n")
    os._exit(130)  # nothing is open yet, and an import that is cut off may hide an exception


def restore() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, if this module changed that."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if (
    _is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _leave)
