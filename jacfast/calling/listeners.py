"""Hooks on a model's inner tensors, and gradients that they retain, as code for Grad-CAM has them.

A batched pass gives them all rows as one tensor of `torch.func`, which nobody can read afterwards;
nor can one see in a graph who listens. So it is noted as it is asked for.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

ASKS = frozenset({Tensor.register_hook, Tensor.retain_grad})
NOTED = "jacfast.listeners"  # in a node's metadata
_met: set[str] = set()  # whether there is one in this process: a look at all nodes takes time


def note(self: Tensor, *_: Any, **__: Any) -> None:
    """Note that a function of `ASKS` is called with a tensor; a leaf is no part of the model."""
    if self.grad_fn is not None:
        _met.add(NOTED)
        _notes(self.grad_fn)[NOTED] = True


def listens(graph: Iterable[Node]) -> bool:
    """Say whether somebody who has been noted listens to a node of the graph."""
    return bool(_met) and any(NOTED in _notes(node) for node in graph)


def _notes(node: Node) -> dict[Any, Any]:
    return node.metadata  # type: ignore[return-value]
