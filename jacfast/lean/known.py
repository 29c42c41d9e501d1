"""Which calls lean layers know."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from jacfast.calling.contexts import autocasts, hooked
from jacfast.calling.tensors import plain
from jacfast.lean.pool import Pair
from jacfast.ops.lives import transformed


def usual() -> bool:
    """Say whether a Function can run: autograd is on, and nothing else looks at its tensors."""
    compiles = torch.compiler.is_compiling()
    return torch.is_grad_enabled() and not compiles and not transformed() and not hooked()


def needs_gradient(x: Tensor) -> bool:
    """Say whether x is a usual tensor whose gradient is wanted, in a usual state."""
    wanted = plain(x) and x.requires_grad and x.dtype.is_floating_point and x.numel() > 0
    return wanted and usual()


def changes(x: Tensor) -> bool:
    """Say whether a Function may change x in place; of views and leaves PyTorch decides."""
    return not (x._is_view() or x.is_leaf)


def operand(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """Return x in the dtype that the layer computes in; None if the layer must run as it is."""
    if not needs_gradient(x) or type(weight) not in (Tensor, nn.Parameter):
        return None
    if not (weight.is_leaf and (bias is None or bias.is_leaf)):  # they could depend on x
        return None
    if bias is not None and (bias.dim() != 1 or bias.dtype != weight.dtype):
        return None
    if autocasts(x.device.type) and torch.float64 not in (x.dtype, weight.dtype):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x if x.dtype == weight.dtype else None


def dtype_of(run: Callable[[Tensor], Tensor], few: Tensor) -> torch.dtype:
    """Return the dtype that `run` computes in: autocast has a list, by devices."""
    with torch.no_grad():
        return run(few).dtype


def each(size: Any, dimensions: int) -> tuple[int, ...]:
    """Return `size` once per dimension."""
    if isinstance(size, int):
        return (size,) * dimensions
    return tuple(size) * dimensions if len(size) == 1 else tuple(size)


def pair(size: Any) -> Pair:
    """Return `size` in both dimensions."""
    first, second = each(size, 2)
    return first, second
