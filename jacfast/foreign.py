"""Functions of the user's own in a graph: where their backward passes lose a second derivative.

A backward pass is linear in the incoming gradient. If what it returns does not hang from that, it
has computed it outside autograd (once_differentiable, no_grad, .data, a detach, an extension
without derivatives), and its second derivative would be lost without an error. A constant incoming
gradient leaves no trace either way, so it is made a leaf first. If it calls ``backward()``, as
reversible blocks do, what comes of that has no graph, and ``.grad`` is written to, which is empty
meanwhile.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from jacfast.calling.held import surely
from jacfast.graph import leaf_of

LOST = "torch::autograd::Error"  # what once_differentiable leaves in the place of a graph
# Of PyTorch's own, whose gradients keep the incoming one's graph, and detach what they multiply by.
LOSE = {"ScanAutogradOpBackward", "WhileLoopAutogradOpBackward"}


@contextlib.contextmanager
def whole(functions: Collection[Node], x: Tensor) -> Iterator[None]:
    """Refuse those of these Functions that lose a part of the gradient in x, while it is made."""
    handles: list[Any] = []
    weights = {id(p): p for node in functions for p in _weights(node)}
    own = [(weight, weight.grad) for weight in weights.values()]

    def put_back() -> None:
        for handle in handles:
            handle.remove()
        for weight, grad in own:
            weight.grad = grad

    try:
        for weight in weights.values():
            weight.grad = None
        for node in functions:
            handles.append(node.register_prehook(_as_leaves))
            handles.append(node.register_hook(_check_of(node, x)))
        yield
    finally:
        surely(put_back)


def foreign(node: Node) -> bool:
    """Say whether a Function is none of this library's own."""
    own = getattr(node, "_forward_cls", None)
    return own is None or not own.__module__.startswith("jacfast.")


def _weights(node: Node) -> list[Tensor]:
    """Return the leaves that a Function was given, and parameters of modules that it has kept."""
    leaves = [leaf_of(following) for following, _ in node.next_functions if following is not None]
    kept = getattr(node, "__dict__", {}).values()
    kept = [one for each in kept for one in (each if isinstance(each, list | tuple) else [each])]
    inside = [p for one in kept if isinstance(one, nn.Module) for p in one.parameters()]
    return [leaf for leaf in leaves if leaf is not None] + inside


def _as_leaves(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(
        g if g is None or g.requires_grad else g.detach().requires_grad_() for g in gradients
    )


def _check_of(node: Node, x: Tensor) -> Any:
    name = node.name().removesuffix("Backward")
    # what it returns for a parameter goes nowhere
    wanted = [
        following is not None and ((leaf := leaf_of(following)) is None or leaf is x)
        for following, _ in node.next_functions
    ]
    weights = _weights(node)

    def check(returned: tuple[Tensor | None, ...], incoming: tuple[Tensor | None, ...]) -> None:
        cut = (used and _cut(g) for g, used in zip(returned, wanted, strict=False))
        if node.name() in LOSE or any(cut):
            raise RuntimeError(
                f"the model has an operation without a second derivative: the backward pass of "
                f"{name} leaves no graph (once_differentiable, no_grad, detach?), and the "
                "penalty's gradient would lose its part"
            )
        if any(weight.grad is not None for weight in weights):
            raise RuntimeError(
                f"the model has an operation without a second derivative: the backward pass of "
                f"{name} calls backward(), which leaves no graph, and the penalty's gradient would "
                "lose its part"
            )

    return check


def _cut(g: Tensor | None) -> bool:
    if g is None:
        return False
    if g.grad_fn is not None:
        return g.grad_fn.name() == LOST
    return not g.requires_grad and bool(g.any())  # a gradient of 0 has a derivative of 0
