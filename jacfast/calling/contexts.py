"""What must hold around the forward and the backward pass of a model."""

import contextlib
import contextvars
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch

from jacfast.calling.held import Hold, held

P = ParamSpec("P")
R = TypeVar("R")
# The stance of the compiler, one for all threads of the process. There is no public way to read it,
# and `torch.compiler.set_stance` that is interrupted leaves the new one without telling the old.
STANCE = Hold(None, lambda frame: frame._stance, lambda frame, stance: frame._set_stance(stance))
_logits_alone = contextvars.ContextVar("logits_alone", default=False)


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Let compiled models run as they were before; without dynamo loaded there are none.

    The first of several calls at once sets the stance of the compiler, the last one puts it back;
    meanwhile compiled models of other threads run uncompiled, too.

    Inside a compiled function, where that cannot be asked for, they are left as they are.
    """
    if torch.compiler.is_compiling() or "torch._dynamo" not in sys.modules:
        yield
        return
    frame: Any = torch._dynamo.eval_frame
    STANCE.value = type(frame._stance)("force_eager")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(RuntimeError):
            stack.enter_context(held([(STANCE, frame)]))
        yield


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Let a compiled function break its graph around `function`, and compile none of that.

    A search is long, takes other samples in each step, and asks what no graph can say.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return called


def hooked() -> bool:
    """Say whether hooks take what is saved for the backward pass, as in a checkpoint."""
    if torch.compiler.is_compiling():  # which cannot ask, and says so to the user
        return False
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def autocasts(kind: str) -> bool:
    """Say whether autocast is at work on devices of a kind."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


@contextlib.contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Switch autocast off inside the context, on the CPU and on `device`."""
    with contextlib.ExitStack() as stack:
        for kind in {"cpu", device.type}:
            if autocasts(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def for_logits_alone(run: Callable[[], R]) -> R:
    """Return ``run()``; a model that gives a penalty beside its logits leaves that out in it.

    Whatever wraps the model. No interrupt can leave it so: the context is a copy.
    """
    if torch.compiler.is_compiling():  # a compiled function would keep what it once was told
        return run()
    context = contextvars.copy_context()
    context.run(_logits_alone.set, True)
    return context.run(run)


def logits_alone() -> bool:
    """Say whether logits alone are asked for."""
    return not torch.compiler.is_compiling() and _logits_alone.get()
