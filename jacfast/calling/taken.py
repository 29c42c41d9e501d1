"""Functions that run in the place of PyTorch's, which may be called with arguments of its own."""

import inspect
from collections.abc import Callable
from typing import Any


def taken(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Return what a function returns; None if it does not take these arguments (``out=``, say)."""
    try:
        return function(*args, **kwargs)
    except TypeError:
        try:
            inspect.signature(function).bind(*args, **kwargs)
        except TypeError:
            return None
        raise
