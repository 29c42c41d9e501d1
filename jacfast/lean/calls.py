"""What runs in place of a call of PyTorch: a lean layer; None for a call that none knows."""

from typing import Any

import torch
from torch import Tensor, nn

from jacfast.calling.parts import convolved
from jacfast.calling.stock import LINEAR
from jacfast.calling.taken import taken
from jacfast.lean.affine import Affine
from jacfast.lean.batch_norm import EvalNorm
from jacfast.lean.blocks import pays
from jacfast.lean.conv import Conv, Shape
from jacfast.lean.elementwise import Piecewise, PiecewiseInPlace, of_relu
from jacfast.lean.gram import Gram
from jacfast.lean.known import changes, each, needs_gradient, operand, pair, usual
from jacfast.lean.mode import Lean
from jacfast.lean.pool import MaxPool2d, Pair, StockMaxPool2d, plain


def linear(lean: Lean, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Run a linear layer as it is; note the first one, on the root."""
    root = lean.root
    if root is None or lean.gram or lean.sweep.wants_root or lean.rows is None:
        return None
    if not (weight.dim() == 2 and Gram.pays(weight, lean.rows)):
        return None
    if not (Gram.takes(input, weight, root) and usual()):
        return None
    output = LINEAR(input, weight, bias)
    lean.gram = Gram(lean.sweep, root, weight, input, output)
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
    of = input.dim() - 2
    shape = Shape(each(stride, of), each(padding, of), each(dilation, of), groups)
    if lean.table.trains and not lean.pays(convolved(input, weight, shape.stride, groups)):
        return None
    x = operand(input, weight, bias)
    if x is None:
        return None
    if not lean.table.trains:  # where they are known to be faster
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        alike = x.device.type == "cpu" and x.dtype == weight.dtype
        if trained or not (alike and pays(weight, *shape)):
            return None
    constants = weight.detach().to(x.dtype), None if bias is None else bias.detach().to(x.dtype)
    layer = Conv(x, shape, lean.sweep, *constants, lean.skips(x))
    return Affine.apply(x, weight, bias, layer)


def relu(lean: Lean, input: Tensor, inplace: bool = False) -> Tensor | None:
    if not lean.pays(input.numel()) or not needs_gradient(input):
        return None
    if not inplace:
        output = Piecewise.apply(input, torch.relu, of_relu)
        lean.rectified = (input, output)
        return output
    return PiecewiseInPlace.apply(input, torch.relu_, of_relu) if changes(input) else None


def relu_(lean: Lean, input: Tensor) -> Tensor | None:
    return relu(lean, input, inplace=True)


def max_pool2d(lean: Lean, input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    window = taken(_window, input, *args, **kwargs)
    if window is None or not lean.pays(input.numel()):
        return None
    if not plain(input, *window):
        return StockMaxPool2d.apply(input, window)
    before, output = lean.rectified or (None, None)
    if before is not None and output is input:
        return MaxPool2d.apply(before, input.detach(), *window[:2])
    return MaxPool2d.apply(input, None, *window[:2])


def plain_max_pool2d(lean: Lean, input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    window = taken(_window, input, *args, **kwargs)
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
    if not needs_gradient(input) or input.dim() != 4 or return_indices:
        return None
    stride = kernel_size if stride is None or stride == () or stride == [] else stride
    return pair(kernel_size), pair(stride), pair(padding), pair(dilation), ceil_mode


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
    if training or running_mean is None or running_var is None or not needs_gradient(input):
        return None
    own = [t for t in (running_mean, running_var, weight, bias) if t is not None]
    alike = all(type(t) in (Tensor, nn.Parameter) and t.dtype == running_var.dtype for t in own)
    if not alike or running_mean.requires_grad or running_var.requires_grad:
        return None
    if not all(t.is_leaf for t in own):  # they could depend on x
        return None
    trained = any(t.requires_grad for t in own)
    if not lean.pays(input.numel()) if lean.table.trains else trained:
        return None
    constants = [None if t is None else t.detach() for t in (weight, bias)]
    layer = EvalNorm(running_mean, running_var, eps, lean.sweep, *constants, lean.skips(input))
    return Affine.apply(input, weight, bias, layer)
