"""What must hold around the forward and the backward pass of a model."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch

from jacfast.calling.held import Hold, held

_PROCESS = object()  # whose flag the stance of the compiler is


class _Stance(Hold):
    """The stance of the compiler, one for all threads of the process."""

    def __init__(self) -> None:
        super().__init__(True, self._read, self._write)
        self._stance: Any = None  # while it is held: what ends it

    def _read(self, _: object) -> bool:
        return self._stance is not None

    def _write(self, _: object, forced: bool) -> None:
        if not forced:
            self._stance.__exit__(None, None, None)
            self._stance = None
            return
        self._stance = _forced()
        try:
            self._stance.__enter__()
        except RuntimeError:  # inside a compiled function
            self._stance = None
            raise


@contextlib.contextmanager
def _forced() -> Iterator[None]:
    """Set the stance, in a generator: dynamo, which must not trace this, leaves those alone."""
    with torch.compiler.set_stance("force_eager"):
        yield


_EAGER = _Stance()


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Let compiled models run as they were before; without dynamo loaded there are none.

    The stance of the compiler is the process's: the first of several calls at once sets it, the
    last one puts it back, and meanwhile compiled models of other threads run uncompiled, too.

    Inside a compiled function, where that cannot be asked for, they are left as they are.
    """
    if torch.compiler.is_compiling() or "torch._dynamo" not in sys.modules:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(RuntimeError):
            stack.enter_context(held([(_EAGER, _PROCESS)]))
        yield
