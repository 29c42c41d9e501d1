"""Smooth activations: each derivative in one pass over the entries.

PyTorch's derivative of their backward passes is made of ten operations or more, each of which
reads and writes tensors as large as the activation. Here it is an op (`jacfast.ops`), in the first
sweep and in the second.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jacfast.ops import activation_first

OF_OUTPUT = ("sigmoid", "tanh")  # whose derivatives are read at the output


class Smooth(torch.autograd.Function):
    """run(x), an activation of `kind` with `parameters` (see `jacfast.ops.activation_first`)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, run: Callable[[Tensor], Tensor], kind: str, parameters: tuple
    ) -> Tensor:
        y = run(x)
        ctx.save_for_backward(y if kind in OF_OUTPUT else x)
        ctx.kind, ctx.parameters = kind, parameters
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        (at,) = ctx.saved_tensors
        return activation_first(at, g, ctx.kind, ctx.parameters), None, None, None


class SmoothInPlace(torch.autograd.Function):
    """The same, in x itself, of what x was: a copy, or x where the output is all that is saved."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        before: Tensor | None,
        run: Callable[[Tensor], Tensor],
        kind: str,
        parameters: tuple,
    ) -> Tensor:
        x.copy_(run(x))
        ctx.mark_dirty(x)
        ctx.save_for_backward(x if before is None else before)
        ctx.kind, ctx.parameters = kind, parameters
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        (at,) = ctx.saved_tensors
        of_x = activation_first(at, g, ctx.kind, ctx.parameters)
        of_before = ctx.needs_input_grad[1]
        return None if of_before else of_x, of_x if of_before else None, None, None, None
