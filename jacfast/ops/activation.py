"""First and second derivatives of smooth activations: see `activation_first`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jacfast.checks import number, one_of
from jacfast.ops import checks, lives

Parameters = tuple[float, ...]
# What each kind takes beside x, by PyTorch's names.
KINDS: dict[str, tuple[str, ...]] = {
    "gelu": (),
    "gelu_tanh": (),
    "silu": (),
    "softplus": ("beta", "threshold"),
    "sigmoid": (),
    "tanh": (),
    "elu": ("alpha", "scale", "input_scale"),
    "mish": (),
    "hardswish": (),
}


def activation_first(x: Tensor, g: Tensor, kind: str, parameters: Parameters = ()) -> Tensor:
    """Pull `g` back through an activation f, entry by entry: ``g f'(x)``.

    ``gelu``: ``x Phi(x)``; ``gelu_tanh``: ``x (1 + tanh(v)) / 2``, ``v = sqrt(2 / pi) (x + 0.044715
    x^3)``; ``silu``: ``x s(x)``, s the logistic function; ``softplus``: ``log(1 + exp(beta x)) /
    beta``, x where ``beta x > threshold`` (with beta = -1 and no threshold, logsigmoid); ``elu``:
    ``scale x`` where x > 0, else ``scale alpha (exp(input_scale x) - 1)`` (selu and celu, too);
    ``mish``: ``x tanh(log(1 + exp(x)))``; ``hardswish``: ``x min(max(x + 3, 0), 6) / 6``.

    ``sigmoid`` and ``tanh`` are read at their output: with x for y, ``x (1 - x)`` and ``1 - x^2``.

    At infinity the limits, and a NaN stays one. Computed in float32 for half types. Differentiable
    any number of times: the derivative is `activation_second`, whose own is the reference's.

    Args:
        x: of any shape and layout; float32, float64, float16 or bfloat16.
        g: the cotangent of the output, like x.
        kind: one of `KINDS`.
        parameters: of ``softplus`` (beta, threshold), of ``elu`` (alpha, scale, input_scale).

    Returns:
        A tensor like x, in its layout.

    Raises:
        TypeError: x is no floating-point tensor, or g has another dtype.
        ValueError: g has another shape or device; kind is unknown, or has other parameters.

    Source: Hendrycks & Gimpel (gelu, silu), Dugas et al. (softplus), Clevert et al. (elu), Misra
    (mish), Howard et al. (hardswish); at the kinks, PyTorch's derivatives.
    """
    numbers = _checked(kind, parameters, x, g=g)
    if not compiled(x):
        return first_reference(x, g, kind, parameters)
    return lives.call("activation_first", x, g, kind, *numbers)


def activation_second(
    x: Tensor, g: Tensor, u: Tensor, kind: str, parameters: Parameters = ()
) -> tuple[Tensor, Tensor]:
    """Pull `u` back through `activation_first`, to x and to g, in one pass.

    Differentiable through the reference: third derivatives cost PyTorch's operations.

    Args:
        x, g, kind, parameters: of `activation_first`.
        u: the cotangent of its result, like x.

    Returns:
        ``u g f''(x)`` and ``u f'(x)``, tensors like x, in its layout.

    Raises:
        TypeError, ValueError: as in `activation_first`.
    """
    numbers = _checked(kind, parameters, x, g=g, u=u)
    differentiates = torch.is_grad_enabled() and any(t.requires_grad for t in (x, g, u))
    if differentiates or not compiled(x):
        return second_reference(x, g, u, kind, parameters)
    of_x, of_g = lives.call("activation_second", x, g, u, kind, *numbers)
    return of_x, of_g


def compiled(x: Tensor) -> bool:
    """Say whether calls on x go to the compiled ops."""
    return lives.native(x) and lives.has("activation_first")


def _checked(
    kind: str, parameters: Parameters, x: Tensor, **others: Tensor
) -> tuple[float, float, float]:
    """Check the arguments and return three numbers, 0 for parameters that a kind does not have."""
    one_of("kind", kind, tuple(KINDS))
    if not isinstance(parameters, tuple | list) or len(parameters) != len(KINDS[kind]):
        wanted = f"({', '.join(KINDS[kind])})"
        raise ValueError(f"parameters of {kind} must be {wanted}; got {parameters!r}")
    numbers = [float(number("parameters", value)) for value in parameters]
    if kind == "elu" and not numbers[2] > 0:
        raise ValueError(f"input_scale of elu must be positive; got {parameters[2]}")
    checks.floating("x", x)
    for name, other in others.items():
        checks.like_x(name, other, x)
    first, second, third = (*numbers, 0.0, 0.0, 0.0)[:3]
    return first, second, third


def first_reference(x: Tensor, g: Tensor, kind: str, parameters: Parameters) -> Tensor:
    """Compute `activation_first` in PyTorch: the definition."""
    wide = checks.accumulator(x.dtype)
    slope, _ = DERIVATIVES[kind](x.to(wide), *parameters)
    return (slope * g.to(wide)).to(x.dtype)


def second_reference(
    x: Tensor, g: Tensor, u: Tensor, kind: str, parameters: Parameters
) -> tuple[Tensor, Tensor]:
    """Compute `activation_second` in PyTorch: the definition."""
    wide = checks.accumulator(x.dtype)
    slope, bend = DERIVATIVES[kind](x.to(wide), *parameters)
    u = u.to(wide)
    return (bend * (u * g.to(wide))).to(x.dtype), (slope * u).to(x.dtype)


Pair = tuple[Tensor, Tensor]  # f'(x) and f''(x)


def _gelu(x: Tensor) -> Pair:
    x = x.clamp(-40, 40)
    density = (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)
    return 0.5 * torch.erfc(-x * math.sqrt(0.5)) + x * density, (2 - x * x) * density


def _logistic(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return s(z), s'(z) and s''(z)."""
    s, rest = torch.sigmoid(z), torch.sigmoid(-z)
    return s, s * rest, s * rest * (rest - s)


def _gelu_tanh(x: Tensor) -> Pair:
    x, c = x.clamp(-30, 30), 2 * math.sqrt(2 / math.pi)
    s, s1, s2 = _logistic(c * (x + 0.044715 * x**3))
    u1, u2 = c * (1 + 3 * 0.044715 * x * x), c * 6 * 0.044715 * x
    return s + x * s1 * u1, 2 * s1 * u1 + x * (s2 * u1 * u1 + s1 * u2)


def _silu(x: Tensor) -> Pair:
    x = x.clamp(-800, 800)
    s, s1, s2 = _logistic(x)
    return s + x * s1, 2 * s1 + x * s2


def _softplus(x: Tensor, beta: float, threshold: float) -> Pair:
    s, s1, _ = _logistic(beta * x)
    beyond, reached = beta * x > threshold, beta * x >= threshold
    return torch.where(beyond, 1, s), torch.where(reached, 0, beta * s1)


def _sigmoid(y: Tensor) -> Pair:
    return y * (1 - y), 1 - 2 * y


def _tanh(y: Tensor) -> Pair:
    return 1 - y * y, -2 * y


def _elu(x: Tensor, alpha: float, scale: float, input_scale: float) -> Pair:
    below = alpha * scale * input_scale * torch.exp(input_scale * torch.where(x > 0, 0, x))
    return torch.where(x > 0, scale, below), torch.where(x >= 0, 0, input_scale * below)


def _mish(x: Tensor) -> Pair:
    x = x.clamp(-800, 800)
    s, s1, _ = _logistic(x)
    r = torch.sigmoid(-x)  # exp(-log(1 + exp(x)))
    t, rest = s * (1 + r) / (1 + r * r), (2 * r / (1 + r * r)) ** 2  # the tanh, and 1 - t^2
    t1, t2 = rest * s, rest * (s1 - 2 * t * s * s)
    return t + x * t1, 2 * t1 + x * t2


def _hardswish(x: Tensor) -> Pair:
    outside, flat = x.abs() >= 3, (x > 0).to(x.dtype)
    third = torch.where(x.isnan(), x, 1 / 3)
    return torch.where(outside, flat, x / 3 + 0.5), torch.where(outside, 0, third)


DERIVATIVES: dict[str, Callable[..., Pair]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "elu": _elu,
    "mish": _mish,
    "hardswish": _hardswish,
}


def _save(ctx, inputs, output) -> None:
    x, g, ctx.kind, *numbers = inputs
    ctx.parameters = tuple(numbers[: len(KINDS[ctx.kind])])
    ctx.save_for_backward(x, g)


def _derivative(ctx, u: Tensor):
    x, g = ctx.saved_tensors
    of_x, of_g = activation_second(x, g, u, ctx.kind, ctx.parameters)
    return of_x, of_g, None, None, None, None


if lives.has("activation_first"):

    @torch.library.register_fake("jacfast::activation_first")
    def _(x: Tensor, g: Tensor, kind: str, *numbers: float) -> Tensor:
        return torch.empty_like(x)

    @torch.library.register_fake("jacfast::activation_second")
    def _(x: Tensor, g: Tensor, u: Tensor, kind: str, *numbers: float) -> Pair:
        return torch.empty_like(x), torch.empty_like(x)

    torch.library.register_autograd("jacfast::activation_first", _derivative, setup_context=_save)
