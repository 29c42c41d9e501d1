"""Normalisation by rows (LayerNorm, RMSNorm, GroupNorm, InstanceNorm): each derivative in one pass.

PyTorch's derivative of their backward passes is made of ten operations or more, each of which
reads and writes tensors as large as the input. Here it is an op (`jacfast.ops`), in the first sweep
and in the second.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jacfast.lean.sweep import PULL, Sweep
from jacfast.ops import norm_first, norm_second

Run = Callable[..., Tensor]


class Norm(NamedTuple):
    """A normalisation: what computes it, and its options as `jacfast.ops.norm_first` has them.

    Attributes:
        run: of x, with weight and bias by name.
        kept: how many last dimensions have a weight for each entry; 0 for one of each channel.
        few: the same as `run`, without a trace.
    """

    run: Run
    sweep: Sweep
    eps: float
    kept: int = 0
    groups: int = 1
    centred: bool = True
    few: Run | None = None

    def rows(self, x: Tensor) -> Tensor:
        """Return x as the ops take it, with its channels second."""
        return x.reshape(-1, math.prod(x.shape[-self.kept :])) if self.kept else x

    def options(self, parameters: bool) -> dict[str, Any]:
        return {
            "eps": self.eps,
            "groups": self.groups,
            "centred": self.centred,
            "parameters": parameters,
        }

    def like_weight(self, found: Tensor | None, x: Tensor) -> Tensor | None:
        """Return the derivative in a parameter in its shape."""
        return found if found is None or not self.kept else found.view(x.shape[-self.kept :])

    def pull(self, x: Tensor, g: Tensor, weight: Tensor | None, parameters: bool) -> tuple:
        """Return the derivatives in x, weight and bias of <y, g>."""
        flat = None if weight is None else weight.flatten()
        of_x, *found = norm_first(self.rows(x), self.rows(g), flat, **self.options(parameters))
        return of_x.view(x.shape), *(self.like_weight(t, x) for t in found)

    def second(
        self, x: Tensor, g: Tensor, u: Tensor, weight: Tensor | None, parameters: bool
    ) -> tuple:
        """Return the derivatives in x, g and weight of <u, the derivative of <y, g> in x>."""
        flat = None if weight is None else weight.flatten()
        x_rows, g_rows, u_rows = (self.rows(t) for t in (x, g, u))
        options = self.options(parameters)
        of_x, of_g, of_weight = norm_second(x_rows, g_rows, u_rows, flat, **options)
        return of_x.view(x.shape), of_g.view(x.shape), self.like_weight(of_weight, x)


class Normalised(torch.autograd.Function):
    """y, the normalised x times weight, plus bias."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Norm
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.norm = norm
        # instance-norm's is a view, which nothing after it could change in place
        return norm.run(x, weight=weight, bias=bias).detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        norm, again = ctx.norm, torch.is_grad_enabled()
        if again:
            norm.sweep.check_own()
        _, trains, shifts, _ = ctx.needs_input_grad
        # a model that differentiates may train itself
        wanted = norm.sweep.in_model if again else norm.sweep.kind != PULL
        if again and not (wanted and (trains or shifts)):
            return _Pulled.apply(x, g, weight, norm), None, None, None
        of_x, of_weight, of_bias = norm.pull(x, g, weight, wanted and (trains or shifts))
        return of_x, of_weight if trains else None, of_bias if shifts else None, None


class _Pulled(torch.autograd.Function):
    """The derivative of <y, g> in x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, weight: Tensor | None, norm: Norm) -> Tensor:
        ctx.save_for_backward(x, g, weight)
        ctx.norm = norm
        return norm.pull(x, g, weight, False)[0]

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple:  # type: ignore[override]
        x, g, weight = ctx.saved_tensors
        norm = ctx.norm
        if torch.is_grad_enabled():  # the model itself differentiates
            norm.sweep.check_own()
        trains = norm.sweep.kind != PULL and ctx.needs_input_grad[2]
        return *norm.second(x, g, u, weight, trains), None
