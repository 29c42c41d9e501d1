"""What do the derivatives of normalisations cost, against PyTorch's and against memory bandwidth?

python -m benchmarks.norms
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops import against_pytorch
from jacfast.ops import norm_first, norm_second

EPS = 1e-5
GPU = 16  # times as many samples there


class Case(NamedTuple):
    """A normalisation of x with a weight of x's second dimension, and the ops' options for it."""

    shape: tuple[int, ...]
    run: Callable[[Tensor, Tensor, Tensor], Tensor]
    groups: int = 1
    centred: bool = True


def _layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[1:], weight, bias, EPS)


# Tokens of 16 images in the MLP of a small transformer, and of 64 smaller ones in a tiny one.
CASES = {
    "LayerNorm, 768": Case((1040, 768), _layer),
    "LayerNorm, 192": Case((4096, 192), _layer),
    "RMSNorm, 768": Case(
        (1040, 768), lambda x, w, b: F.rms_norm(x, x.shape[1:], w, EPS) + b, centred=False
    ),
    "GroupNorm": Case((32, 64, 16, 16), lambda x, w, b: F.group_norm(x, 8, w, b, EPS), 8),
    "InstanceNorm": Case(
        (32, 64, 16, 16), lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=EPS), 64
    ),
}
Runs = dict[str, tuple[Callable[[], object], int]]


def contenders(name: str, device: torch.device) -> Runs:
    """Verify, and return by name what to time, with the bytes that it must move at least."""
    case = CASES[name]
    generator = torch.Generator(device).manual_seed(0)
    samples, *rest = case.shape
    shape = samples * (GPU if device.type == "cuda" else 1), *rest
    drawn = partial(torch.randn, device=device, generator=generator)
    x, g, u = (drawn(shape) for _ in range(3))
    weight, bias = drawn(shape[1]) + 1, drawn(shape[1])
    own = [t.requires_grad_() for t in (x, weight, bias)]
    g.requires_grad_()
    y = case.run(*own)
    (pulled,) = torch.autograd.grad(y, x, g, create_graph=True)
    grad = partial(torch.autograd.grad, retain_graph=True)
    options = {"centred": case.centred, "parameters": True}
    constants = x.detach(), g.detach()
    first = partial(norm_first, *constants, weight.detach(), EPS, case.groups, **options)
    second = partial(norm_second, *constants, u, weight.detach(), EPS, case.groups, **options)
    runs = {
        "first": (first, partial(grad, y, own, g.detach()), 3),
        "second": (second, partial(grad, pulled, (x, g, weight), u), 5),
    }
    result: Runs = {}
    for order, (ours, stock, moved) in runs.items():
        for got, want in zip(ours(), stock(), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
        result[f"{name}, {order}"] = ours, 4 * moved * x.numel()
        result[f"{name}, {order}, PyTorch"] = stock, 4 * moved * x.numel()
    return result


def main() -> None:
    """Verify, time, print and write results/norms-cpu.json (or norms-cuda.json)."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs: Runs = {}
    for name in CASES:
        runs |= contenders(name, device)
    against_pytorch(runs, "float32, gradients of weight and bias included", f"norms-{device.type}")


if __name__ == "__main__":
    main()
