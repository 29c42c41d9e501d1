"""When a batch may pass through a model in parts: where nobody could tell the difference.

What changes with every call, draws random numbers, or couples the samples of a batch cannot all be
recognised. So this knows the layers that do nothing of the kind, and whatever it does not know is
called once, on the whole batch, on every device: a class of one's own or one derived from a known
one, a forward function of an instance, hooks, parametrizations. Dropout in training mode draws one
mask over the batch, of which each part gets its own (`jacfast.calling.masks`).
"""

import math
import operator
import weakref
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import TorchFunctionMode

from jacfast.calling.masks import FUNCTIONS, LAYERS
from jacfast.calling.stock import overridden, stock
from jacfast.calling.tree import tree, weights

# Each sample by itself, without randomness and without memory, whatever their arguments.
ALONE = {
    *(nn.Sequential, nn.Identity, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Softplus, nn.Softsign, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh),
    *(nn.Hardsigmoid, nn.Hardswish, nn.Threshold),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.GroupNorm, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    *LAYERS,
}
ALONE_IN_EVAL = {  # the norms with running statistics
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
}
PLAIN = {type(None), Tensor, nn.Parameter}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_hooks_of = operator.attrgetter(*HOOKS)

# On a CPU a tensor of more than 32 MB is new memory from the system each time, and one of less
# than half of that mostly stays in the caches until it is read again.
BYTES = 1 << 24
# measured: benchmarks/README.md, 'Small networks'
ENTRIES, PRODUCTS = 1 << 19, 1 << 26
CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d}
LEAST = 32  # samples: with fewer, the gradients of the weights are added up too often

_seen: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()


def separable(modules: list[nn.Module]) -> bool:
    """Say whether it is certain that a batch may pass through these in parts, in any order."""
    return not (_has_any_global_hook() or overridden()) and all(map(_alone, modules))


def hears_gradients(modules: Iterable[nn.Module]) -> bool:
    """Say whether hooks of these modules, or of all, are called in backward passes."""
    own = any(module._backward_hooks or module._backward_pre_hooks for module in modules)
    return own or bool(_has_any_global_hook())


def may_be_cut(x: Tensor) -> bool:
    """Say whether there is something to be gained: on a CPU, with many samples."""
    return x.device.type == "cpu" and x.shape[0] > LEAST


def part_of(model: nn.Module, x: Tensor) -> int:
    """Return how many samples of x [N, ...] to pass through a `separable` model at a time.

    On a CPU as many as keep its largest tensor below 16 MB, on a GPU all.
    """
    if not may_be_cut(x):
        return x.shape[0]
    return min(len(x), max(LEAST, BYTES // _look(model, x).bytes))


def worth_two_calls(model: nn.Module, x: Tensor) -> bool:
    """Say whether a `separable` model costs so much that one more call of it does not count.

    By the largest tensor of the batch, or by the products with weights.
    """
    return entries_of(model, x) >= ENTRIES or not has_few_products(tree(model), x)


def has_few_products(modules: Iterable[nn.Module], x: Tensor) -> bool:
    """Say whether the products of each sample with all weights, each once, cost little."""
    return weights(modules) * len(x) < PRODUCTS


def entries_of(model: nn.Module, x: Tensor) -> int:
    """Return how many entries the largest layer of a batch x has in a `separable` model."""
    return _look(model, x).entries * x.shape[0]


def convolved(x: Tensor, weight: Tensor, stride: Sequence[int], groups: int) -> int:
    """Return how many entries the output of a convolution has, but for its borders."""
    inputs = weight.shape[1] * groups
    return x.numel() * weight.shape[0] // max(1, inputs * math.prod(stride))


def rows_of(model: nn.Module, x: Tensor) -> int:
    """Return how many outputs a `separable` model has for a sample of x: rows of its Jacobian."""
    return _look(model, x).outputs


def _look(model: nn.Module, x: Tensor) -> "_Sizes":
    """Return the sizes of one sample's tensors."""
    known, key = _seen.setdefault(model, {}), (x.shape[1:], x.dtype)
    if key not in known:
        with torch.no_grad(), _Sizes(x[:1]) as sizes:
            sizes.outputs = model(x[:1].clone()).numel()  # it may begin in place
        known[key] = sizes
    return known[key]


def _alone(module: nn.Module) -> bool:
    kind = type(module)
    if not stock(module) or any(_hooks_of(module)):
        return False
    # nn.Module is slow to say that it has no attribute
    if vars(module).get("return_indices"):  # a pooling that returns two tensors
        return False
    if not PLAIN.issuperset(map(type, module._parameters.values())):
        return False
    if kind in ALONE_IN_EVAL:
        return not module.training and getattr(module, "running_mean", module) is not None
    if kind is nn.LayerNorm:  # over more dimensions it could be over the samples
        return len(module.normalized_shape) == 1  # type: ignore[arg-type]
    if kind is nn.Flatten:
        return bool(module.start_dim > 0)  # type: ignore[operator]
    return kind in ALONE


class Largest(TorchFunctionMode):
    """Of the tensors that functions return inside the context, and of x, the largest."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.bytes = x.nbytes

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and not found.is_sparse:  # which has no number of bytes
            self.bytes = max(self.bytes, found.nbytes)
        return found


class _Sizes(Largest):
    """The same, how many entries the largest has, and how many outputs a sample.

    Dropout is to draw nothing here. Convolutions are counted as lean ones are.
    """

    outputs = 0

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.entries = x.numel()

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func in FUNCTIONS:
            return args[0]
        found = super().__torch_function__(func, types, args, kwargs)
        if isinstance(found, Tensor):
            self.entries = max(self.entries, found.numel())
        if func in CONVOLUTIONS:  # called by layers, which give all arguments in order
            x, weight, _, stride, _, _, groups = args
            self.entries = max(self.entries, convolved(x, weight, stride, groups))
        return found
