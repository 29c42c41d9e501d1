"""The normalisations that the op tests run over, by PyTorch's own functions."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Case(NamedTuple):
    """A normalisation of x [N, C, ...] with a weight [C], and the options of the ops for it."""

    run: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]
    groups: Callable[[int], int]  # of a number of channels
    centred: bool = True


def _layer(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[1:], _whole(x, weight), _whole(x, bias), eps)


def _rms(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    y = F.rms_norm(x, x.shape[1:], _whole(x, weight), eps)
    return y if bias is None else y + _whole(x, bias)


def _whole(x: Tensor, weight: Tensor | None) -> Tensor | None:
    """Return a weight of channels as one of entries, for functions that want one."""
    if weight is None:
        return None
    return weight.view(-1, *[1] * (x.dim() - 2)).expand(x.shape[1:])


def _group(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return torch.group_norm(x, _thirds(x.shape[1]), weight, bias, eps)


def _instance(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return torch.group_norm(x, x.shape[1], weight, bias, eps)


def _thirds(channels: int) -> int:
    return 3 if channels % 3 == 0 else 1


CASES = {
    "layer": Case(_layer, lambda channels: 1),
    "rms": Case(_rms, lambda channels: 1, centred=False),
    "group": Case(_group, _thirds),
    "instance": Case(_instance, lambda channels: channels),
}


def oracle(
    name: str, x: Tensor, g: Tensor, u: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor | None, ...]:
    """Return by autograd, in float64, on the CPU, what the ops return.

    That is, of norm_first the derivatives of x, weight, bias; of norm_second those of x, g, weight.
    """
    x, g, u, scale = (None if t is None else t.detach().double().cpu() for t in (x, g, u, weight))
    x, g = x.requires_grad_(), g.requires_grad_()
    scale = torch.ones(x.shape[1]).double() if scale is None else scale
    scale, bias = scale.requires_grad_(), torch.zeros_like(scale).requires_grad_()
    y = CASES[name].run(x, scale, bias, eps)
    first = torch.autograd.grad(y, (x, scale, bias), g, create_graph=True)
    second = torch.autograd.grad(first[0], (x, g, scale), u)
    return tuple(t.detach() for t in (*first, *second))
