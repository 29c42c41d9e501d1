"""Warnings are shown at the user's line."""

import sys
import warnings
from types import FrameType

OURS = ("jacfast", "torch", "contextlib", "functools")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside this library, and outside torch, that led here."""
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame and frame.f_globals.get("__name__", "").split(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
