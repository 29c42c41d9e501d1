"""Which calls run as lean layers, in training and for rows of the Jacobian."""

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from jacfast.calling.functions import compiled, modules_of
from jacfast.lean import calls
from jacfast.lean.activations import ACTIVATIONS
from jacfast.lean.attention import BY_KERNELS, BY_OPERATIONS
from jacfast.lean.mode import Lean, Table
from jacfast.lean.norms import NORMS
from jacfast.lean.pool import POOLS
from jacfast.lean.sweep import PULL, Sweep
from jacfast.memory import keep

# What an unknown network that is small has, and nothing else for which it would be watched.
ATTENTION = Table(BY_KERNELS, trains=True)
TRAINING = Table(
    {
        **BY_KERNELS,
        F.linear: calls.linear,
        **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), calls.conv),
        F.batch_norm: calls.batch_norm,
        **dict.fromkeys((F.relu, torch.relu, Tensor.relu), calls.relu),
        **dict.fromkeys((torch.relu_, Tensor.relu_), calls.relu_),
        **ACTIVATIONS,
        **NORMS,
        **dict.fromkeys(POOLS, calls.max_pool2d),
    },
    trains=True,
)
# On a GPU, where nobody has timed lean layers yet, training runs PyTorch's own. To measure:
# JACFAST_LEAN_ON_GPU=1, read once, at import.
STOCK = Table(BY_OPERATIONS, trains=True)
ON_GPU = os.environ.get("JACFAST_LEAN_ON_GPU", "0")
if ON_GPU not in ("0", "1"):
    raise ImportError(f"JACFAST_LEAN_ON_GPU must be 0 or 1; got {ON_GPU!r}")


def training(device: torch.device) -> Table:
    """Return the lean layers of a training step on `device`."""
    return TRAINING if device.type == "cpu" or ON_GPU == "1" else STOCK


# For rows of the Jacobian, without parameter gradients: what has a faster or safer input gradient.
ROWS = Table(
    {
        torch.conv2d: calls.conv,
        F.batch_norm: calls.batch_norm,
        **dict.fromkeys(POOLS, calls.plain_max_pool2d),
    },
    trains=False,
)


@contextlib.contextmanager
def lean(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the layers of `model` compute their input gradients in a faster way, inside the context.

    The outputs are the same to the bit, gradients to rounding. So far: on the CPU, convolutions
    with few input channels, as the first of an image network has them (`jacfast.lean.blocks`), and
    max-pooling of plain windows; on any device batch-norm in eval mode, whose own gradient can be
    wrong for one sample; of modules, and of what is around them, without compiled parts (these
    would be compiled again).
    """
    keep()
    if compiled(model) or not modules_of(model):
        yield
        return
    with Lean(Sweep(PULL), ROWS):
        yield
