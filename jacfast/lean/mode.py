"""Run a model with lean layers in place of stock ones, without changing it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jacfast.calling.attention import BY_MATH
from jacfast.calling.functions import compiled, modules_of
from jacfast.lean.batch_norm import EvalNorm, Norm
from jacfast.lean.blocks import pays
from jacfast.lean.conv import Conv, Shape
from jacfast.lean.elementwise import ReLU, ReLUInPlace
from jacfast.lean.gram import Gram
from jacfast.lean.linear import Linear
from jacfast.lean.pool import MaxPool2d, Pair, StockMaxPool2d, plain
from jacfast.lean.sink import Layer, Sink
from jacfast.ops.lives import transformed


class Lean(TorchFunctionMode):
    """While active, calls of the functions in `table` run as lean layers that report to `sink`.

    Whatever a lean layer does not know (its function here returns None) runs as it is: unusual
    arguments, parameters that are not the model's own, torch.func transforms, saved-tensor hooks
    (gradient checkpointing), inputs that need no gradient.
    """

    def __init__(self, sink: Sink, table: dict[Callable, Callable]) -> None:
        super().__init__()
        self.sink, self.table = sink, table
        self.others = BY_MATH if table is TRAINING else {}  # inside checkpoints as well

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in POOLS:
            self.sink.rectified = None
        if func in self.table and _usual():
            result = self.table[func](self.sink, *args, **kwargs)
            if result is not None:
                return result
        if func in self.others:
            self.sink.attends, func = True, self.others[func]
        return func(*args, **kwargs)


def _usual() -> bool:
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not transformed()
        and torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    )


def linear(sink: Sink, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    x = _operand(sink, input, weight, bias)
    if x is None or x.dim() < 2 or weight.dim() != 2:
        return None
    if x.dim() > 2:  # a Function may not return what the stock function does then: a view
        rows = linear(sink, x.flatten(0, -2), weight, bias)
        return None if rows is None else rows.unflatten(0, x.shape[:-1])
    layer = Layer(sink, weight, bias, sink.skips(x))
    output = Linear.apply(x, sink.anchor, layer)
    if layer.skip and x.dtype == weight.dtype and Gram.takes(x, sink.root):
        sink.gram = Gram(layer, output)
    return output


def conv(
    sink: Sink,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    x = _operand(sink, input, weight, bias)
    if x is None or isinstance(padding, str) or x.dim() != weight.dim():
        return None
    each = x.dim() - 2
    shape = Shape(_each(stride, each), _each(padding, each), _each(dilation, each), groups)
    if not sink.parameters:  # rows of the Jacobian alone: where they are known to be faster
        alike = x.device.type == "cpu" and x.dtype == weight.dtype
        if not (alike and pays(weight, *shape)):
            return None
    return Conv.apply(x, sink.anchor, Layer(sink, weight, bias, sink.skips(x), shape))


def relu(sink: Sink, input: Tensor, inplace: bool = False) -> Tensor | None:
    if not _needs_gradient(input):
        return None
    if not inplace:
        output = ReLU.apply(input)
        sink.rectified = (input, output)
        return output
    return None if input._is_view() or input.is_leaf else ReLUInPlace.apply(input)


def relu_(sink: Sink, input: Tensor) -> Tensor | None:
    return relu(sink, input, inplace=True)


def max_pool2d(sink: Sink, input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    window = _window(input, *args, **kwargs)
    if window is None:
        return None
    if not plain(input, *window):
        return StockMaxPool2d.apply(input, window)
    before, output = sink.rectified or (None, None)
    if before is not None and output is input:
        return MaxPool2d.apply(before, input.detach(), *window[:2])
    return MaxPool2d.apply(input, None, *window[:2])


def plain_max_pool2d(sink: Sink, input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
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
    sink: Sink,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if training or running_mean is None or running_var is None:
        return None
    each = [t for t in (running_mean, running_var, weight, bias) if t is not None]
    alike = all(type(t) in (Tensor, nn.Parameter) and t.dtype == running_var.dtype for t in each)
    if not alike or running_mean.requires_grad or running_var.requires_grad:
        return None
    if not (_needs_gradient(input) and sink.knows(weight) and sink.knows(bias)):
        return None
    norm = Norm(sink, weight, bias, running_mean, running_var, eps, sink.skips(input))
    return EvalNorm.apply(input, sink.anchor, norm)


POOLS = (F.max_pool2d, torch.max_pool2d)
# For training: gradients of parameters go to the sink.
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
    with Lean(Sink(), ROWS):
        yield


def _operand(sink: Sink, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """Return x in the dtype that the layer computes in; None if the layer must run as it is."""
    if not _needs_gradient(x) or type(weight) not in (Tensor, nn.Parameter):
        return None
    if not (sink.knows(weight) and sink.knows(bias)):
        return None
    if bias is not None and (bias.dim() != 1 or bias.dtype != weight.dtype):
        return None
    kind = x.device.type
    rounds = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    if rounds and torch.float64 not in (x.dtype, weight.dtype):
        return x.to(torch.get_autocast_dtype(kind))
    return x if x.dtype == weight.dtype else None


def _needs_gradient(x: Tensor) -> bool:
    plain = type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided
    return plain and x.requires_grad and x.dtype.is_floating_point and x.numel() > 0


def _each(size: Any, dimensions: int) -> tuple[int, ...]:
    """Return `size` once per dimension."""
    if isinstance(size, int):
        return (size,) * dimensions
    return tuple(size) * dimensions if len(size) == 1 else tuple(size)


def _pair(size: Any) -> Pair:
    first, second = _each(size, 2)
    return first, second
