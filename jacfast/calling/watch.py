"""Modules in training mode that run although nobody found them."""

import contextlib
import itertools
import threading
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from jacfast.calling.baked import MODAL
from jacfast.calling.functions import compiled
from jacfast.calling.warning import warn


@contextlib.contextmanager
def unseen(model: object) -> Iterator[None]:
    """Warn if a module in training mode runs inside the context, by this thread.

    A module is put in eval mode with all of its own; this is for functions and objects, of which
    some hold their modules where no look reaches (in an extension, behind a property). The hook is
    the process's: so this is for one forward pass.
    """
    if isinstance(model, nn.Module) or torch.compiler.is_compiling() or compiled(model):
        yield
        return
    thread, ran = threading.get_ident(), list[str]()

    def note(module: nn.Module, _: object) -> None:
        if not ran and threading.get_ident() == thread and _acts_otherwise(module):
            ran.append(type(module).__name__)

    hook = register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()
    if ran:
        warn(
            f"the model ran a {ran[0]} in training mode, which could not be found in it to be "
            "evaluated in eval mode: call .eval() on it, or pass the module itself"
        )


def _acts_otherwise(module: nn.Module) -> bool:
    """Say whether it is in training mode and may be another in eval mode.

    One without state, as ``nn.Softmax(1)(z)`` makes it on the spot, is not, unless it is dropout.
    """
    if not getattr(module, "training", False):
        return False
    own = itertools.chain(module.parameters(), module.buffers())
    return next(own, None) is not None or any(isinstance(m, MODAL) for m in module.modules())
