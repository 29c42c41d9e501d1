"""What must hold around the forward and the backward pass of a model."""

import contextlib
import sys
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Let compiled models run as they were before; without dynamo loaded there are none.

    Inside a compiled function, where that cannot be asked for, they are left as they are.
    """
    if torch.compiler.is_compiling() or "torch._dynamo" not in sys.modules:
        yield
        return
    try:
        stance = torch.compiler.set_stance("force_eager")
    except RuntimeError:
        yield
        return
    with stance:
        yield
