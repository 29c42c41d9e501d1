"""What runs in place of a call of an activation but ReLU: see `jacfast.lean.calls`."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from jacfast.calling.contexts import autocasts
from jacfast.lean.elementwise import PiecewiseInPlace, PiecewiseOfInput, Slope
from jacfast.lean.known import changes, dtype_of, needs_gradient
from jacfast.lean.mode import Lean
from jacfast.lean.smooth import OF_OUTPUT, Smooth, SmoothInPlace
from jacfast.ops.activation import compiled

Call = Callable[..., Tensor | None]
Run = Callable[[Tensor], Tensor]
# SELU's constants, as PyTorch has them
SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0)


def _smooth(
    lean: Lean,
    input: Tensor,
    run: Run,
    kind: str,
    parameters: tuple[float, ...] = (),
    inplace: bool = False,
) -> Tensor | None:
    """Run an activation as one function of `kind`; None where it is not known to be one."""
    if not (lean.pays(input.numel()) and needs_gradient(input) and compiled(input)):
        return None
    if inplace:
        if not changes(input):
            return None
        before = None if kind in OF_OUTPUT else input.clone()
        return SmoothInPlace.apply(input, before, run, kind, parameters)
    computes = dtype_of(run, input.new_zeros(1)) if autocasts(input.device.type) else input.dtype
    return Smooth.apply(input.to(computes), run, kind, parameters)


def gelu(lean: Lean, input: Tensor, approximate: str = "none") -> Tensor | None:
    run = functools.partial(F.gelu, approximate=approximate)
    return _smooth(lean, input, run, "gelu_tanh" if approximate == "tanh" else "gelu")


def softplus(lean: Lean, input: Tensor, beta: float = 1, threshold: float = 20) -> Tensor | None:
    run = functools.partial(F.softplus, beta=beta, threshold=threshold)
    return _smooth(lean, input, run, "softplus", (float(beta), float(threshold)))


def logsigmoid(lean: Lean, input: Tensor) -> Tensor | None:
    return _smooth(lean, input, F.logsigmoid, "softplus", (-1.0, math.inf))


def elu(lean: Lean, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor | None:
    run = functools.partial(F.elu, alpha=alpha)
    return _smooth(lean, input, run, "elu", (float(alpha), 1.0, 1.0), inplace)


def celu(lean: Lean, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor | None:
    if not alpha > 0:
        return None
    run = functools.partial(F.celu, alpha=alpha)
    return _smooth(lean, input, run, "elu", (float(alpha), 1.0, 1 / alpha), inplace)


def _piecewise(
    lean: Lean, input: Tensor, run: Run, changing: Run, slope: Slope, inplace: bool
) -> Tensor | None:
    """Run an activation of pieces of lines; `changing` is `run` in place."""
    if not (lean.pays(input.numel()) and needs_gradient(input)):
        return None
    if not inplace:
        return PiecewiseOfInput.apply(input, run, slope)
    return PiecewiseInPlace.apply(input, changing, slope) if changes(input) else None


def leaky_relu(
    lean: Lean, input: Tensor, negative_slope: float = 0.01, inplace: bool = False
) -> Tensor | None:
    if not negative_slope >= 0:  # the output would not tell where x is positive
        return None
    run = functools.partial(F.leaky_relu, negative_slope=negative_slope)
    changing = functools.partial(run, inplace=True)

    def slope(g: Tensor, y: Tensor) -> Tensor:
        return torch.ops.aten.leaky_relu_backward(g, y, negative_slope, True)

    return _piecewise(lean, input, run, changing, slope, inplace)


def hardtanh(
    lean: Lean, input: Tensor, min_val: float = -1, max_val: float = 1, inplace: bool = False
) -> Tensor | None:
    run = functools.partial(F.hardtanh, min_val=min_val, max_val=max_val)
    changing = functools.partial(run, inplace=True)

    def slope(g: Tensor, y: Tensor) -> Tensor:
        return torch.ops.aten.hardtanh_backward(g, y, min_val, max_val)

    return _piecewise(lean, input, run, changing, slope, inplace)


def relu6(lean: Lean, input: Tensor, inplace: bool = False) -> Tensor | None:
    return hardtanh(lean, input, 0, 6, inplace)


def _plain(run: Run, kind: str, parameters: tuple = ()) -> Call:
    """Return what runs an activation that takes its input, and whether to change that."""

    def call(lean: Lean, input: Tensor, inplace: bool = False) -> Tensor | None:
        return _smooth(lean, input, run, kind, parameters, inplace)

    return call


def _in_place(call: Call) -> Call:
    return functools.partial(call, inplace=True)


silu, mish = _plain(F.silu, "silu"), _plain(F.mish, "mish")
hardswish, selu = _plain(F.hardswish, "hardswish"), _plain(F.selu, "elu", SELU)
sigmoid, tanh = _plain(torch.sigmoid, "sigmoid"), _plain(torch.tanh, "tanh")

ACTIVATIONS: dict[Callable, Call] = {
    F.leaky_relu: leaky_relu,
    F.leaky_relu_: _in_place(leaky_relu),
    F.hardtanh: hardtanh,
    F.hardtanh_: _in_place(hardtanh),
    F.relu6: relu6,
    F.gelu: gelu,
    F.silu: silu,
    F.mish: mish,
    F.hardswish: hardswish,
    F.softplus: softplus,
    F.logsigmoid: logsigmoid,
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, torch.special.expit), sigmoid),
    **dict.fromkeys((torch.sigmoid_, Tensor.sigmoid_), _in_place(sigmoid)),
    **dict.fromkeys((torch.tanh, Tensor.tanh), tanh),
    **dict.fromkeys((torch.tanh_, Tensor.tanh_), _in_place(tanh)),
    F.elu: elu,
    F.elu_: _in_place(elu),
    **dict.fromkeys((F.selu, torch.selu), selu),
    torch.selu_: _in_place(selu),
    **dict.fromkeys((F.celu, torch.celu), celu),
    torch.celu_: _in_place(celu),
}
