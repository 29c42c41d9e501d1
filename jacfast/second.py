"""Where PyTorch lacks a second derivative: given where there is one, else refused in words."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from jacfast.calling.held import held
from jacfast.calling.modes import STATIC
from jacfast.foreign import foreign, whole
from jacfast.fused_attention import is_fused, twice
from jacfast.graph import Graph
from jacfast.lacking import explained
from jacfast.third import PLACES, of_normalisation
from jacfast.zero_norm import ORDERS, is_norm, of_norm

COMPILED = "CompiledFunctionBackward"
PARALLEL = "_DDPSinkBackward"  # with static_graph it takes its first backward pass for the loss's


# Piecewise linear operations whose backward pass cannot be differentiated in PyTorch (all others
# can): where x has slope, and 1 / slope.
LINEAR = {"HardsigmoidBackward0": (lambda x: (x > -3) & (x < 3), 6)}
GIVEN = {*LINEAR, *PLACES, *ORDERS}  # nodes that may be given a derivative, beside attention's


@contextlib.contextmanager
def watched(graph: Graph, x: Tensor) -> Iterator[None]:
    """Let piecewise linear operations, attention and Functions have a second derivative or say so.

    This holds while the gradient in x is made, with a graph. The first get it here, whose slope is
    a constant, fused attention (`jacfast.fused_attention`), norms that are zero
    (`jacfast.zero_norm`) and normalisations that a model has differentiated (`jacfast.third`). Of
    the Functions those are refused whose backward pass leaves no graph (`jacfast.foreign`), and a
    compiled model is.

    What cannot be seen: a backward pass that keeps the incoming gradient's graph, and detaches what
    it multiplies by.
    """
    if COMPILED in graph.named:
        raise RuntimeError(
            "the model, or a part of it, is compiled (torch.compile), and compiled graphs have no "
            "second derivative: use forward_with_penalty(model, x), or compile the loss as a whole "
            "with torch._dynamo.config.trace_autograd_ops = True and call backward() outside"
        )
    handles, functions = [], list[Node]()
    for name, some in graph.named.items():
        if name in GIVEN or is_fused(some[0]):
            given = [(node, _given(node)) for node in some]
            handles += [node.register_hook(hook) for node, hook in given if hook]
        elif isinstance(some[0], torch.autograd.function.BackwardCFunction) or "CppNode" in name:
            functions += filter(foreign, some)
    parallel = [node.ddp_weakref() for node in graph.named.get(PARALLEL, ())]  # type: ignore[attr-defined]
    try:
        with explained(), whole(functions, x), held([(STATIC, wrapper) for wrapper in parallel]):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _given(node: Node) -> Any:
    """Return the hook that gives `node` its second derivative; None if there is nothing to give.

    None, too, where the node has nothing to read: PyTorch's own error is to follow, if x leads
    there at all.
    """
    try:
        if node.name() in LINEAR:
            return _slope_of(node)
        if node.name() in PLACES:
            return of_normalisation(node)
        if is_fused(node):
            return twice(node)
        return of_norm(node) if is_norm(node) else None
    except RuntimeError:  # freed, or changed in place
        return None


def _slope_of(node: Node) -> Any:
    inside, divisor = LINEAR[node.name()]
    flat = ~inside(node._saved_self.detach())  # type: ignore[attr-defined]

    def hook(returned: tuple, incoming: tuple[Tensor | None, ...]) -> tuple | None:
        (g,) = incoming
        return None if g is None else (g.masked_fill(flat, 0) / divisor,)

    return hook
