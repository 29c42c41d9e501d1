"""Rivals of the step beside those of `jacfast.bench`, and steps as CUDA graphs."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast.timing.rivals import Step, drawn


def batched(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
    """The exact penalty by one batched (vmap) backward pass."""
    x = x.detach().requires_grad_()
    logits = model(x)
    rows = torch.eye(logits.shape[1], device=x.device)[:, None].expand(-1, *logits.shape)
    (g,) = torch.autograd.grad(logits, x, rows, create_graph=True, is_grads_batched=True)
    (F.cross_entropy(logits, y) + lam * g.square().sum() / len(x)).backward()


def compiled_plain() -> Step:
    """Cross-entropy alone, the loss compiled."""
    loss = torch.compile(lambda model, x, y: F.cross_entropy(model(x), y))
    return lambda model, x, y, lam: loss(model, x, y).backward()


def compiled_traced() -> Step:
    """The whole step compiled, torch.autograd.grad traced."""

    def gradients(model: nn.Module, x: Tensor, y: Tensor, v: Tensor, lam: float) -> tuple:
        x = x.detach().requires_grad_()
        logits = model(x)
        (g,) = torch.autograd.grad(logits, x, v, create_graph=True)
        loss = F.cross_entropy(logits, y) + lam * g.square().sum() / len(x)
        return torch.autograd.grad(loss, list(model.parameters()))

    compiled = torch.compile(gradients)

    def step(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            found = compiled(model, x, y, drawn(x.new_empty(len(x), 10)), lam)
        for parameter, g in zip(model.parameters(), found, strict=True):
            parameter.grad = g

    return step


def recorded(run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Record `run` as a CUDA graph, after warming up on another stream; return graph and result."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


def captured(step: Step) -> Step:
    """`step`, recorded once as a CUDA graph, for the inputs that it is first called with."""
    graphs: list[torch.cuda.CUDAGraph] = []
    gradients: dict[Tensor, Tensor | None] = {}

    def run(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
        def once() -> None:
            model.zero_grad()
            step(model, x, y, lam)

        if not graphs:
            graphs.append(recorded(once)[0])
            gradients.update({p: p.grad for p in model.parameters()})
        graphs[0].replay()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient

    return run
