"""Look at a model without changing it: eval mode and no parameter gradients, then all as it was."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
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
    if not isinstance(model, nn.Module):
        with stance:
            yield
        return
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    if any(module.training and isinstance(module, MODAL) for module in model.modules()):
        warn(
            "the model has dropout or batch-norm in training mode: it is evaluated in eval mode, "
            "then put back"
        )
    with stance, in_eval_mode(model.modules()):
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, requires_grad in flags:
                parameter.requires_grad_(requires_grad)


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


def warn(message: str) -> None:
    """Warn at the line outside this library that led here."""
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame and frame.f_globals.get("__name__", "").startswith(("jacfast", "contextlib")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def logits_of(model: Model, x: Tensor) -> Tensor:
    """Return model(x) as [N, K], or say what is wrong with it."""
    logits = model(x)
    check_logits(logits, x)
    return logits.flatten(1)


def check_logits(logits: object, x: Tensor) -> None:
    """Check what a model returned for x."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must return a tensor of logits; got {type(logits).__name__}")
    if not logits.dtype.is_floating_point:
        raise TypeError(f"model must return floating-point logits; got {logits.dtype}")
    if logits.dim() < 2 or len(logits) != len(x):
        raise ValueError(
            f"model must return one row of logits per sample, [N, K] with N = {len(x)}; "
            f"got shape {list(logits.shape)}"
        )


def check_input(x: Tensor, *, name: str = "x") -> None:
    """Check a batch of inputs to an attack or a measure."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(x).__name__}")
    if not x.dtype.is_floating_point:
        raise TypeError(f"{name} must be floating point (scale images to [0, 1]); got {x.dtype}")
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"{name} must be a non-empty batch [N, ...]; got shape {list(x.shape)}")


def check_classes(logits: Tensor) -> None:
    """Check that logits [N, K] have a boundary between classes."""
    if logits.shape[1] < 2:
        raise ValueError(f"model must return at least 2 logits per sample; got {logits.shape[1]}")


def check_labels(y: Tensor, samples: int, classes: int | None = None, *, name: str = "y") -> None:
    """Check class labels: int64 [N], in 0 .. K - 1 once K is known."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name} must be an int64 tensor of labels; got {got}")
    if y.shape != (samples,):
        raise ValueError(f"{name} must have shape [N] = [{samples}]; got {list(y.shape)}")
    if classes is None:
        return
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{name} must lie in 0 .. K - 1 = {classes - 1}; got {low} .. {high}")
