"""Look at a model without changing it: eval mode and no parameter gradients, then all as it was."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from jacfast.calling.contexts import eager
from jacfast.calling.functions import modules_of
from jacfast.calling.outputs import Model
from jacfast.calling.warning import warn

MODAL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)


@contextlib.contextmanager
def quiet(model: Model, *, gradients: bool = True) -> Iterator[None]:
    """Put every module in eval mode and switch off requires_grad of every parameter, for a while.

    For `gradients` in x, compiled models run as they were before (what is compiled for one backward
    pass has no second), and torch.inference_mode() is an error; without them, both are as usual.

    Afterwards, also after an exception, each module's flag and each parameter's requires_grad is
    what it was. Nothing is ever written to ``.grad``. Dropout or a normalisation layer in training
    mode draws a warning: the answer differs from what the model does as it stands.
    """
    if gradients and torch.is_inference_mode_enabled():
        raise RuntimeError(
            "gradients with respect to x do not exist in torch.inference_mode(): call this outside"
        )
    stance = eager() if gradients else contextlib.nullcontext()
    modules = modules_of(model)
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters(recurse=False)]
    if any(module.training and isinstance(module, MODAL) for module in modules):
        warn(
            "the model has dropout or batch-norm in training mode: it is evaluated in eval mode, "
            "then put back"
        )
    with stance, in_eval_mode(modules):
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, requires_grad in flags:
                parameter.requires_grad_(requires_grad)


@contextlib.contextmanager
def in_eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Keep these modules, and not their children, in eval mode inside the context."""
    modes = [(module, module.training) for module in modules]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training
