"""What do the derivatives of activations cost, against PyTorch's and against memory bandwidth?

python -m benchmarks.activations
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops import against_pytorch
from jacfast.ops import activation_first, activation_second
from jacfast.ops.activation import Parameters

# Tokens of 16 images and the inner width of a small transformer's MLP.
SHAPE = {"cpu": (1040, 768), "cuda": (16 * 1040, 768)}
KINDS: dict[str, tuple[Callable[[Tensor], Tensor], Parameters]] = {
    "gelu": (F.gelu, ()),
    "gelu_tanh": (partial(F.gelu, approximate="tanh"), ()),
    "silu": (F.silu, ()),
    "softplus": (F.softplus, (1.0, 20.0)),
    "sigmoid": (torch.sigmoid, ()),
    "tanh": (torch.tanh, ()),
    "elu": (F.elu, (1.0, 1.0, 1.0)),
    "mish": (F.mish, ()),
    "hardswish": (F.hardswish, ()),
}
Runs = dict[str, tuple[Callable[[], object], int]]


def contenders(kind: str, x: Tensor, g: Tensor, u: Tensor) -> Runs:
    """Verify, and return by name what to time, with the bytes that it must move at least."""
    f, parameters = KINDS[kind]
    x, g = x.detach().requires_grad_(), g.detach().requires_grad_()
    y = f(x)
    # what the backward pass reads, to which PyTorch's own derivative leads as ours does
    read = y if kind in ("sigmoid", "tanh") else x
    (pulled,) = torch.autograd.grad(y, x, g, create_graph=True)
    grad = partial(torch.autograd.grad, retain_graph=True)
    at = read.detach()
    ours = partial(activation_second, at, g.detach(), u, kind, parameters)
    stock = partial(grad, pulled, (read, g), u)
    torch.testing.assert_close(ours(), stock(), rtol=1e-5, atol=1e-5)
    first = partial(activation_first, at, g.detach(), kind, parameters)
    torch.testing.assert_close(first(), pulled.detach(), rtol=1e-5, atol=1e-5)
    entries = 4 * x.numel()
    return {
        f"{kind}, first": (first, 3 * entries),
        f"{kind}, first, PyTorch": (partial(grad, y, x, g.detach()), 3 * entries),
        f"{kind}, second": (ours, 5 * entries),
        f"{kind}, second, PyTorch": (stock, 5 * entries),
    }


def main() -> None:
    """Verify, time, print and write results/activations-cpu.json (or activations-cuda.json)."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(0)
    shape = SHAPE[device.type]
    x, g, u = (torch.randn(shape, device=device, generator=generator) for _ in range(3))
    other = torch.empty_like(x)
    runs: Runs = {"copy of x": (lambda: other.copy_(x), 8 * x.numel())}
    for kind in KINDS:
        runs |= contenders(kind, x, g, u)
    against_pytorch(runs, f"x {list(shape)} float32", f"activations-{device.type}")


if __name__ == "__main__":
    main()
