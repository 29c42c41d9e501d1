"""Run a model with lean layers for a while, without changing it."""

import contextlib
import functools
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from jacfast.lean.conv import few_channels


@contextlib.contextmanager
def lean(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the model's layers compute their input gradients in a faster way, inside the context.

    The outputs are the same to the bit, gradients to rounding. So far: on the CPU, ``nn.Conv2d``
    layers with few input channels, as the first of an image network has them
    (`jacfast.lean.conv`). What it does not know is left alone: subclasses, layers with a forward
    of their own, whatever is not an ``nn.Module``, and models with compiled parts.

    Afterwards, also after an exception, the model is as it was.
    """
    swapped = list(_knows(model)) if isinstance(model, nn.Module) else []
    for layer in swapped:
        layer.forward = functools.partial(few_channels, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in swapped:
            del layer.forward


def _knows(model: nn.Module) -> Iterator[nn.Conv2d]:
    modules = list(model.modules())
    if any(_compiled(module) for module in modules):
        return  # a compiled part would be compiled again for the changed layers
    for module in modules:
        # on the CPU only: nn.DataParallel would copy the forward with the first GPU's weight
        if (
            isinstance(module, nn.Conv2d)
            and type(module) is nn.Conv2d
            and isinstance(module.weight, Tensor)  # else it is applied in another way
            and module.weight.device.type == "cpu"
            and "forward" not in vars(module)
        ):
            yield module


def _compiled(module: nn.Module) -> bool:
    """Say whether `module` came from torch.compile, or was compiled in place."""
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None
