"""Whether PyTorch does what PyTorch wrote: nobody has put something in its place.

A program may patch a class (``nn.Linear.forward = ...``) or a function (``F.linear = ...``), or let
a mode of its own handle functions while it is active. What is done by the name of a layer or of a
function, without a look at what it does, is asked here first.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._device import DeviceContext

KINDS = [
    kind for kind in vars(nn).values() if isinstance(kind, type) and issubclass(kind, nn.Module)
]
FORWARDS = {kind: kind.forward for kind in KINDS}
LINEAR = F.linear
# What layers call whose weight is looked at, and not what they return.
FUNCTIONS = {nn.Linear: ("linear", LINEAR), nn.Conv2d: ("conv2d", F.conv2d)}


def stock(layer: nn.Module) -> bool:
    """Say whether a layer of torch.nn runs as PyTorch wrote it, but for hooks and modes."""
    kind = type(layer)
    if "forward" in vars(layer) or kind not in FORWARDS or FORWARDS[kind] is not kind.forward:
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
