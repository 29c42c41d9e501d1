"""Look at a model without changing it: eval mode and no parameter gradients, then all as it was."""

import contextlib
import contextvars
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from jacfast.calling.anew import compute_anew, computing, lost
from jacfast.calling.baked import MODAL, trained
from jacfast.calling.batch_norm import check_uncoupled
from jacfast.calling.call import Call
from jacfast.calling.contexts import eager
from jacfast.calling.frozen import GRADIENT
from jacfast.calling.functions import modules_of
from jacfast.calling.held import Hold, held
from jacfast.calling.outputs import Model
from jacfast.calling.warning import warn


def _setter(flag: str) -> Callable[[Any, Any], None]:
    return lambda module, value: setattr(module, flag, value)


# A module made by torch.jit.freeze has no such flag: it is what it is.
TRAINING = Hold(False, lambda module: getattr(module, "training", None), _setter("training"))
# Of DistributedDataParallel: a call of one process is its own, and none of a step of training.
FLAGS = ("require_backward_grad_sync", "require_forward_param_sync", "static_graph")
ALONE = [Hold(False, operator.attrgetter(flag), _setter(flag)) for flag in FLAGS]
STATIC = ALONE[-1]
_in_a_step = contextvars.ContextVar("in_a_step", default=False)
LAZY = (UninitializedParameter, UninitializedBuffer)


@contextlib.contextmanager
def in_a_step() -> Iterator[None]:
    """Take the training mode of models for a step's own inside the context, and say nothing."""
    token = _in_a_step.set(True)
    try:
        yield
    finally:
        _in_a_step.reset(token)


@contextlib.contextmanager
def quiet(model: Model, *, gradients: bool = True) -> Iterator[None]:
    """Put every module in eval mode and switch off requires_grad of every parameter, for a while.

    Of a function or an object around modules, those that `modules_of` finds. Dropout or a
    normalisation layer that was in training mode draws a warning: the answer differs from what the
    model does as it stands.

    For `gradients` in x, compiled models run as they were before (what is compiled for one backward
    pass has no second), and torch.inference_mode() is an error; without them, both are as usual.
    Batch-norm that couples the samples of a `Call` in eval mode is an error with gradients, and
    draws a warning without. In DistributedDataParallel nothing is sent to the other processes,
    which may call the model more often, or not at all.

    Afterwards, also after an exception or an interrupt, each module's flag and each parameter's
    requires_grad is what it was; with several calls at once, in whatever order they end, as soon as
    the last of them has ended. Nothing is ever written to ``.grad``.
    """
    if gradients and torch.is_inference_mode_enabled():
        raise RuntimeError(
            "gradients with respect to x do not exist in torch.inference_mode(): call this outside"
        )
    modules = modules_of(model)
    modal = any(isinstance(module, MODAL) and module.training for module in modules)
    if modal and not _in_a_step.get():
        warn(
            "the model has dropout or batch-norm in training mode: it is evaluated in eval mode, "
            "then put back"
        )
    for module in modules:
        kind = trained(module)
        if kind:
            warn(
                f"the model was traced or exported in training mode, and its {kind} runs so: eval "
                "mode changes nothing. Trace or export it anew after model.eval()"
            )
            break
    check_made(modules)
    if isinstance(model, Call):
        check_uncoupled(model, modules, gradients)
    parameters: list[Tensor] = [p for m in modules for p in m.parameters(recurse=False)]
    computed = computing(modules)
    wanted = [(TRAINING, module) for module in modules] + [(GRADIENT, p) for p in parameters]
    parallel = [module for module in modules if isinstance(module, DistributedDataParallel)]
    wanted += [(flag, module) for module in parallel for flag in ALONE]
    try:
        with eager() if gradients else contextlib.nullcontext(), held(wanted):
            yield
    finally:
        if anew := lost(computed):
            with in_eval_mode(module for module, _ in anew):  # no power iteration more
                compute_anew(anew)


def check_made(modules: Iterable[nn.Module]) -> None:
    """Refuse modules whose tensors are made by the first forward pass: nobody has them yet."""
    modules = list(modules)
    kinds = {type(t) for m in modules for own in (m._parameters, m._buffers) for t in own.values()}
    if not any(issubclass(kind, LAZY) for kind in kinds):
        return
    for module in modules:
        for name, tensor in itertools.chain(module._parameters.items(), module._buffers.items()):
            if isinstance(tensor, LAZY):
                raise ValueError(
                    f"model must have all its parameters and buffers; the {name} of a "
                    f"{type(module).__name__} is made by the first forward pass: call model(x) "
                    "once before"
                )


@contextlib.contextmanager
def in_eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Keep these modules, and not their children, in eval mode inside the context."""
    with held((TRAINING, module) for module in modules):
        yield
