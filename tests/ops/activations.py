"""The activations by PyTorch's own forward functions, to differentiate in float64."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from jacfast.ops.activation import KINDS

# Kinds, each with parameters that it can have; and who computes the same.
CASES: dict[str, tuple[str, tuple[float, ...], Callable[[Tensor], Tensor]]] = {
    "gelu": ("gelu", (), F.gelu),
    "gelu_tanh": ("gelu_tanh", (), functools.partial(F.gelu, approximate="tanh")),
    "silu": ("silu", (), F.silu),
    "softplus": ("softplus", (1.0, 20.0), F.softplus),
    "softplus, sharp": ("softplus", (3.0, 2.0), lambda x: F.softplus(x, 3, 2)),
    "logsigmoid": ("softplus", (-1.0, math.inf), F.logsigmoid),
    "sigmoid": ("sigmoid", (), torch.sigmoid),
    "tanh": ("tanh", (), torch.tanh),
    "elu": ("elu", (1.0, 1.0, 1.0), F.elu),
    "elu, bent": ("elu", (0.5, 1.0, 1.0), lambda x: F.elu(x, 0.5)),
    "celu": ("elu", (2.0, 1.0, 0.5), lambda x: F.celu(x, 2)),
    "mish": ("mish", (), F.mish),
    "hardswish": ("hardswish", (), F.hardswish),
}
assert {kind for kind, _, _ in CASES.values()} == set(KINDS)


def read_at(name: str, x: Tensor) -> Tensor:
    """Return where the ops read the derivatives: at the output of sigmoid and tanh."""
    return CASES[name][2](x) if name in ("sigmoid", "tanh") else x


def oracle(name: str, x: Tensor, g: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``g f'``, ``u g f''`` and ``u f'`` by autograd in float64.

    Of sigmoid and tanh at the output x: the derivatives of ``g f'`` in that.
    """
    x, g = (t.detach().cpu().double().requires_grad_() for t in (x, g))
    if name == "sigmoid":
        first = g * x * (1 - x)
    elif name == "tanh":
        first = g * (1 - x**2)
    else:
        (first,) = torch.autograd.grad(CASES[name][2](x), x, g, create_graph=True)
    of_x, of_g = torch.autograd.grad(first, (x, g), u.cpu().double())
    return first.detach(), of_x, of_g
