"""The gradient of a penalised step by plain autograd, whatever the dtype."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from jacfast.calling import State, eager
from jacfast.calling.seeds import at_seed
from jacfast.penalties.base import Penalty, cotangents_of, sizes_of
from jacfast.step.draw import penalised_count
from jacfast.timing.task import Task


class Clamped(TorchFunctionMode):
    """Computes hard-sigmoid, which has no second derivative in PyTorch, by a clamp, which has."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


class Autograd:
    """Gradients of ``CE + lam R`` by plain autograd, of a model or of a copy in another dtype.

    The vectors are drawn as the contenders draw them: after the model, in the dtype of the task.
    """

    def __init__(self, task: Task, called: nn.Module, x: Tensor) -> None:
        self.task, self.called, self.x = task, called, x
        self.parameters = [p for p in called.parameters() if p.requires_grad]
        # from which each call begins
        self.state = State(called, copied=sys.maxsize, beside=task.penalty)

    def gradient(self, penalty: Penalty) -> Tensor:
        """Return the gradient of the step with this penalty, from seed 0."""
        task, leaf = self.task, self.x.detach().clone().requires_grad_()
        self.state.undo()
        with eager(), sdpa_kernel(SDPBackend.MATH), Clamped(), at_seed(leaf.device):
            logits = self.called(leaf)
            loss = F.cross_entropy(logits, task.y) + task.lam * self._value(penalty, logits, leaf)
            found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return flat(self.parameters, found)

    def _value(self, penalty: Penalty, logits: Tensor, leaf: Tensor) -> Tensor:
        rows = torch.arange(len(leaf), device=leaf.device)
        if penalty.subsample < 1:
            rows = torch.randperm(len(leaf), device=leaf.device)[
                : penalised_count(penalty, len(leaf))
            ]
        outputs, y = logits[rows], self.task.y[rows]
        draw = penalty.draw(len(rows), outputs.detach().to(self.task.x.dtype), None)
        if draw is not None and draw.is_floating_point():
            draw = draw.to(torch.promote_types(draw.dtype, outputs.dtype))
        sizes = []
        for v in cotangents_of(penalty, outputs, leaf, y, draw):
            (g,) = torch.autograd.grad(outputs, leaf, v, create_graph=True)
            sizes.append(sizes_of(penalty, g[rows].flatten(1)))
        return penalty.reduce(penalty.collect(torch.stack(sizes)), len(rows))


def flat(parameters: list[nn.Parameter], gradients: Iterable[Tensor | None]) -> Tensor:
    """Return all gradients as one float64 vector; those that are None are zeros."""
    found = [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)
    ]
    return torch.cat([g.detach().double().flatten() for g in found])
