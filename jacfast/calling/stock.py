"""Whether PyTorch does what PyTorch wrote: nobody has put something in its place.

A program may patch a class (``nn.Linear.forward = ...``) or a function (``F.linear = ...``), or let
a mode of its own handle functions while it is active. What is done by the name of a layer or of a
function, without a look at what it does, is asked here first.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._device import DeviceContext

# Not those of F, in whose place something may have been put before this is imported.
LINEAR: Any = torch._C._nn.linear
SDPA: Any = torch._C._nn.scaled_dot_product_attention
# What layers call whose weight is looked at, and not what they return.
FUNCTIONS = {nn.Linear: ("linear", LINEAR), nn.Conv2d: ("conv2d", torch.conv2d)}
LAYERS = "torch.nn.modules."


def stock(layer: nn.Module) -> bool:
    """Say whether a layer of torch.nn runs as PyTorch wrote it, but for hooks and modes."""
    kind = type(layer)
    if "forward" in vars(layer) or not kind.__module__.startswith(LAYERS):
        return False
    written = getattr(kind.forward, "__globals__", {}).get("__name__", "")
    if not written.startswith(LAYERS):
        return False
    name, function = FUNCTIONS.get(kind, ("", None))
    return function is None or getattr(F, name) is function


def overridden() -> bool:
    """Say whether a mode of someone else's handles PyTorch's functions: a default device is none.

    What has taken the place of a function in a mode of ours, which is asked first, that one would
    not see.
    """
    return any(map(_foreign, torch.overrides._get_current_function_mode_stack()))


def _foreign(mode: object) -> bool:
    return not (isinstance(mode, DeviceContext) or type(mode).__module__.startswith("jacfast."))
