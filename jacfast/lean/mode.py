"""Run a model with lean layers in place of stock ones, without changing it."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jacfast.calling.attention import BY_MATH
from jacfast.calling.functions import compiled, modules_of
from jacfast.graph import leaf_of, nodes
from jacfast.lean.affine import Affine
from jacfast.lean.batch_norm import EvalNorm
from jacfast.lean.blocks import pays
from jacfast.lean.conv import Conv, Shape
from jacfast.lean.elementwise import ReLU, ReLUInPlace
from jacfast.lean.gram import Gram
from jacfast.lean.pool import MaxPool2d, Pair, StockMaxPool2d, plain
from jacfast.lean.sweep import PULL, Sweep
from jacfast.ops.lives import transformed

# Entries of a layer's output from which a lean layer pays: below, its calls cost more than they
# save (benchmarks/README.md, 'Small networks').
LEAST = 1 << 18


class Lean(TorchFunctionMode):
    """While active, calls of the functions in `table` run as lean layers, in the sweeps `sweep`.

    Whatever a lean layer does not know (its function here returns None) runs as it is: unusual
    arguments, torch.func transforms, saved-tensor hooks (gradient checkpointing), inputs that need
    no gradient; and all layers before the first one of at least `least` entries.

    Attributes:
        root: the leaf that stands for the model's input.
        rows: how many cotangents there will be at most, where the sum of their squares is all
            that is wanted; else None.
        gram: the `jacfast.lean.gram.Gram` of a linear layer on the root, if there is one.
        rectified: a ReLU's input and output, if it was the last call, for a pooling to come.
        attends: whether attention has been called.
    """

    def __init__(
        self,
        sweep: Sweep,
        table: dict[Callable, Callable],
        root: Tensor | None = None,
        rows: int | None = None,
        least: int | None = None,
    ) -> None:
        super().__init__()
        self.sweep, self.table, self.root, self.rows = sweep, table, root, rows
        self.least = LEAST if least is None else least
        self.gram: Gram | None = None
        self.rectified: tuple[Tensor, Tensor] | None = None
        self.attends = False
        self.others = BY_MATH if table is TRAINING else {}  # inside checkpoints as well

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.rectified is not None and func not in POOLS:
            self.rectified = None
        layer = self.table.get(func)
        if layer is not None:
            result = layer(self, *args, **kwargs)
            if result is not None:
                return result
        elif func in self.others:
            self.attends, func = True, self.others[func]
        return func(*args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        self.rectified = None  # whoever keeps this, for what was met, needs no activations
        super().__exit__(*error)

    @property
    def active(self) -> bool:
        """Whether there are lean layers, or are to be from the first one on."""
        return self.least == 0

    def pays(self, entries: int) -> bool:
        """Say whether a layer of that many entries is to be lean: all are, after the first one.

        So that a graph in which lean layers cut the ties has no others that tie it.
        """
        if entries >= self.least:
            self.least = 0
        return self.least == 0

    def skips(self, x: Tensor) -> bool:
        """Say whether nobody wants the gradient of x, a layer's input: only the root is behind."""
        if self.root is None or self.sweep.wants_root:
            return False
        if x.grad_fn is None:
            return x is self.root
        leaves = (leaf_of(node) for node in nodes(x))
        return all(leaf is None or leaf is self.root for leaf in leaves)


def _usual() -> bool:
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not transformed()
        and torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    )


def linear(lean: Lean, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Run a linear layer as it is; note the first one, on the root."""
    root = lean.root
    if root is None or lean.gram or lean.sweep.wants_root or lean.rows is None:
        return None
    if not (weight.dim() == 2 and Gram.pays(weight, lean.rows)):
        return None
    if not (Gram.takes(input, weight, root) and _usual()):
        return None
    output = F.linear(input, weight, bias)
    lean.gram = Gram(lean.sweep, root, weight, output)
    return output


def conv(
    lean: Lean,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    if isinstance(padding, str) or input.dim() != weight.dim():
        return None
    each = input.dim() - 2
    shape = Shape(_each(stride, each), _each(padding, each), _each(dilation, each), groups)
    if lean.table is TRAINING and not lean.pays(_entries(input, weight, shape)):
        return None
    x = _operand(input, weight, bias)
    if x is None:
        return None
    if lean.table is ROWS:  # where they are known to be faster
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        alike = x.device.type == "cpu" and x.dtype == weight.dtype
        if trained or not (alike and pays(weight, *shape)):
            return None
    constants = weight.detach().to(x.dtype), None if bias is None else bias.detach().to(x.dtype)
    layer = Conv(x, shape, lean.sweep, *constants, lean.skips(x))
    return Affine.apply(x, weight, bias, layer)


def relu(lean: Lean, input: Tensor, inplace: bool = False) -> Tensor | None:
    if not lean.pays(input.numel()) or not _needs_gradient(input):
        return None
    if not inplace:
        output = ReLU.apply(input)
        lean.rectified = (input, output)
        return output
    return None if input._is_view() or input.is_leaf else ReLUInPlace.apply(input)


def relu_(lean: Lean, input: Tensor) -> Tensor | None:
    return relu(lean, input, inplace=True)


def max_pool2d(lean: Lean, input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    window = _window(input, *args, **kwargs)
    if window is None or not lean.pays(input.numel()):
        return None
    if not plain(input, *window):
        return StockMaxPool2d.apply(input, window)
    before, output = lean.rectified or (None, None)
    if before is not None and output is input:
        return MaxPool2d.apply(before, input.detach(), *window[:2])
    return MaxPool2d.apply(input, None, *window[:2])


def plain_max_pool2d(lean: Lean, input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    window = _window(input, *args, **kwargs)
    if window is None or input.is_cuda or not plain(input, *window):
        return None
    return MaxPool2d.apply(input, None, *window[:2])


def _window(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Pair, Pair, Pair, Pair, bool] | None:
    """Return the arguments of a pooling, each whole; None if it is not one for a lean layer."""
    if not _needs_gradient(input) or input.dim() != 4 or return_indices:
        return None
    stride = kernel_size if stride is None or stride == () or stride == [] else stride
    return _pair(kernel_size), _pair(stride), _pair(padding), _pair(dilation), ceil_mode


def batch_norm(
    lean: Lean,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if training or running_mean is None or running_var is None or not _needs_gradient(input):
        return None
    each = [t for t in (running_mean, running_var, weight, bias) if t is not None]
    alike = all(type(t) in (Tensor, nn.Parameter) and t.dtype == running_var.dtype for t in each)
    if not alike or running_mean.requires_grad or running_var.requires_grad:
        return None
    if not all(t.is_leaf for t in each):  # they could depend on x
        return None
    trained = any(t.requires_grad for t in each)
    if trained if lean.table is ROWS else not lean.pays(input.numel()):
        return None
    constants = [None if t is None else t.detach() for t in (weight, bias)]
    layer = EvalNorm(running_mean, running_var, eps, lean.sweep, *constants, lean.skips(input))
    return Affine.apply(input, weight, bias, layer)


POOLS = (F.max_pool2d, torch.max_pool2d)
# For training.
TRAINING: dict[Callable, Callable] = {
    F.linear: linear,
    torch.conv1d: conv,
    torch.conv2d: conv,
    torch.conv3d: conv,
    F.batch_norm: batch_norm,
    F.relu: relu,
    torch.relu: relu,
    torch.relu_: relu_,
    Tensor.relu: relu,
    Tensor.relu_: relu_,
    **dict.fromkeys(POOLS, max_pool2d),
}
# For rows of the Jacobian, without parameter gradients: what has a faster or safer input gradient.
ROWS: dict[Callable, Callable] = {
    torch.conv2d: conv,
    F.batch_norm: batch_norm,
    **dict.fromkeys(POOLS, plain_max_pool2d),
}


@contextlib.contextmanager
def lean(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the layers of `model` compute their input gradients in a faster way, inside the context.

    The outputs are the same to the bit, gradients to rounding. So far: on the CPU, convolutions
    with few input channels, as the first of an image network has them (`jacfast.lean.blocks`),
    max-pooling of plain windows, and batch-norm in eval mode, whose own gradient can be wrong for
    one sample; of modules, and of what is around them, without compiled parts (these would be
    compiled again).
    """
    if compiled(model) or not modules_of(model):
        yield
        return
    with Lean(Sweep(PULL), ROWS):
        yield


def _operand(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """Return x in the dtype that the layer computes in; None if the layer must run as it is."""
    if not _needs_gradient(x) or type(weight) not in (Tensor, nn.Parameter):
        return None
    if not (weight.is_leaf and (bias is None or bias.is_leaf)):  # they could depend on x
        return None
    if bias is not None and (bias.dim() != 1 or bias.dtype != weight.dtype):
        return None
    kind = x.device.type
    rounds = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    if rounds and torch.float64 not in (x.dtype, weight.dtype):
        return x.to(torch.get_autocast_dtype(kind))
    return x if x.dtype == weight.dtype else None


def _entries(x: Tensor, weight: Tensor, shape: Shape) -> int:
    """Return how many entries the output of a convolution has, but for its borders."""
    inputs = weight.shape[1] * shape.groups
    return x.numel() * weight.shape[0] // max(1, inputs * math.prod(shape.stride))


def _needs_gradient(x: Tensor) -> bool:
    plain = type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided
    usual = plain and x.requires_grad and x.dtype.is_floating_point and x.numel() > 0
    return usual and _usual()


def _each(size: Any, dimensions: int) -> tuple[int, ...]:
    """Return `size` once per dimension."""
    if isinstance(size, int):
        return (size,) * dimensions
    return tuple(size) * dimensions if len(size) == 1 else tuple(size)


def _pair(size: Any) -> Pair:
    first, second = _each(size, 2)
    return first, second
