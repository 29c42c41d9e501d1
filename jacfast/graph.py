"""Walk an autograd graph."""

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.function import BackwardCFunction
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


def is_batch_norm(node: Node) -> bool:
    """Say whether `node` is a batch-norm of PyTorch's own, of any backend, or an instance-norm."""
    return "BatchNormBackward" in node.name() and not isinstance(node, BackwardCFunction)


def shape_of(node: Node) -> list[int]:
    """Return the shape of the first output that `node` stands for; it reads no saved tensor."""
    return list(node._input_metadata[0].shape)  # type: ignore[attr-defined]


def coupling(outputs: Tensor, x: Tensor) -> Iterator[Node]:
    """Yield the batch-norms with statistics of the batch between x and `outputs`.

    Instance-norm is one over a batch of size 1, whose channels are those of all samples: it is none
    of these.
    """
    for node in nodes(outputs, past=x.grad_fn):
        if "SyncBatchNorm" in node.name():  # over several processes; it saves nothing to look at
            yield node
        elif len(x) > 1 and is_batch_norm(node) and node._saved_training:  # type: ignore[attr-defined]
            batch, channels, *_ = shape_of(node)
            if batch > 1 or channels % len(x):
                yield node


def couples_samples(outputs: Tensor, x: Tensor) -> bool:
    """Say whether a sample's outputs depend on other samples, through a batch-norm after x."""
    return any(True for _ in coupling(outputs, x))


def has_running_statistics(node: Node) -> bool:
    """Say whether a batch-norm could use running statistics instead of the batch's."""
    try:
        return getattr(node, "_saved_running_mean", node) is not None
    except RuntimeError:  # freed
        return True
