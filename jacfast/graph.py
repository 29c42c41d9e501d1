"""Walk an autograd graph."""

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node


def nodes(*outputs: Tensor, past: Node | None = None) -> Iterator[Node]:
    """Yield every node of the graph that `outputs` hang from, each once.

    Not `past`, nor what is reached through that node alone.
    """
    todo: list[Node | None] = [output.grad_fn for output in outputs]
    seen = {past}
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo += [following for following, _ in node.next_functions]


def leaf_of(node: Node) -> Tensor | None:
    """Return the leaf whose gradient `node` accumulates; None for any other node."""
    own = node.name() == "torch::autograd::AccumulateGrad"  # a Function's ctx may have a variable
    return getattr(node, "variable", None) if own else None


def couples_samples(outputs: Tensor, x: Tensor) -> bool:
    """Say whether a batch-norm with batch statistics is between x and `outputs`.

    Instance-norm is one, too, over a batch of size 1, in which samples are apart.
    """
    for node in nodes(outputs, past=x.grad_fn):
        name = node.name()
        if "SyncBatchNorm" in name:  # over several processes; it saves nothing to look at
            return True
        training = "BatchNormBackward" in name and getattr(node, "_saved_training", False)
        if training and len(getattr(node, "_saved_input", ())) > 1:
            return True
    return False
