"""The node that stands outside for all that `forward_with_penalty` does inside."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jacfast.calling import eager
from jacfast.step.pending import Pending


class Node(torch.autograd.Function):
    """What a pass has `made`, as functions of x and of the parameters; what is `Pending`, backward.

    The two come apart: what is made will hold this node, which holds what is pending.
    """

    @staticmethod
    def forward(
        ctx: Any, pending: Pending, made: Sequence[Tensor], x: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.pending, ctx.inputs = pending, (x, *parameters)
        ctx.set_materialize_grads(False)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple:  # type: ignore[override]
        differentiated = torch.is_grad_enabled()
        with torch.no_grad(), eager():  # checkpoints run parts of the model again
            found = ctx.pending.gradients(*gradients)
        if differentiated:  # create_graph=True
            found = _Last.apply(len(found), *found, *ctx.inputs, *gradients)
        return None, None, *found


class _Last(torch.autograd.Function):
    """Gradients that have no derivative: an error, whether the loss's own gradient has one or not.

    PyTorch's once_differentiable takes them for constants if it has not. They hang from all that
    they depend on: a pass for chosen inputs alone visits only nodes on the way to these.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else g.view_as(g) for g in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple:  # type: ignore[override]
        raise RuntimeError(
            "a gradient through forward_with_penalty was differentiated (create_graph=True): it is "
            "one node of first order; for that, add penalty(logits, x) to the loss instead"
        )
