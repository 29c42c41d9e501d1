"""Walk an autograd graph."""

import functools
import itertools
import re
from collections.abc import Iterator

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge

LEAF = "torch::autograd::AccumulateGrad"


def nodes(*outputs: Tensor | Node | None, past: Node | None = None) -> Iterator[Node]:
    """Yield every node of the graph that `outputs` hang from, each once.

    Not `past`, nor what is reached through that node alone.
    """
    todo = [output.grad_fn if isinstance(output, Tensor) else output for output in outputs]
    seen = {past, None}
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        for following, _ in node.next_functions:
            if following not in seen:
                todo.append(following)


def leaf_of(node: Node) -> Tensor | None:
    """Return the leaf whose gradient `node` accumulates; None for any other node."""
    own = node.name() == LEAF  # a Function's ctx may have a variable
    return getattr(node, "variable", None) if own else None


def saves(node: Node) -> bool:
    """Say whether a node of this kind may save tensors; else any number of sweeps may pass it."""
    return _saves(type(node))


@functools.cache
def _saves(kind: type) -> bool:
    # What others save is out of sight: CppFunction (TorchScript, extensions in C++), CopySlices.
    seen = kind.__name__ == "AccumulateGrad" or re.search(r"Backward\d+$", kind.__name__)
    if hasattr(kind, "saved_tensors") or not seen:
        return True
    return any(name.startswith("_raw_saved_") for name in dir(kind))


def is_batch_norm(node: Node) -> bool:
    """Say whether `node` is a batch-norm of PyTorch's own, of any backend, or an instance-norm."""
    return "BatchNormBackward" in node.name() and not isinstance(node, BackwardCFunction)


class Graph:
    """The graph that `outputs` hang from, walked once; see `nodes`.

    Attributes:
        named: its nodes by their names, of which a network of many layers has few.
    """

    def __init__(self, *outputs: Tensor, past: Node | None = None) -> None:
        self.named: dict[str, list[Node]] = {}
        kinds: dict[type, list[Node]] = {}
        for node in nodes(*outputs, past=past):
            kinds.setdefault(type(node), []).append(node)
        for kind, some in kinds.items():  # to ask each for its name takes as long as the walk
            if some[0].name() == kind.__name__:
                self.named.setdefault(kind.__name__, []).extend(some)
            else:  # one type for many: operations of extensions
                for node in some:
                    self.named.setdefault(node.name(), []).append(node)

    def __iter__(self) -> Iterator[Node]:
        return itertools.chain.from_iterable(self.named.values())

    @property
    def leaves(self) -> list[Tensor]:
        """The leaves that gradients are accumulated in."""
        return [node.variable for node in self.named.get(LEAF, ())]  # type: ignore[attr-defined]

    @property
    def batch_norms(self) -> list[Node]:
        """The batch-norms of PyTorch's own, of any backend, and instance-norms."""
        return [n for some in self.named.values() if is_batch_norm(some[0]) for n in some]


def shape_of(node: Node) -> list[int]:
    """Return the shape of the first output that `node` stands for; it reads no saved tensor."""
    return list(node._input_metadata[0].shape)  # type: ignore[attr-defined]


def is_nested(node: Node) -> bool:
    """Say whether an output that `node` stands for is a nested tensor."""
    return any(one.is_nested_tensor for one in node._input_metadata)  # type: ignore[attr-defined]


def coupling(graph: Graph, x: Tensor) -> Iterator[Node]:
    """Yield the batch-norms with statistics of the batch in the `graph` from outputs to x.

    None of these is one whose input does not depend on x: a weight may be standardised by it. And
    instance-norm is one over a batch of size 1, which is a view of [rows, channels, ...] with a
    channel for each of these: where the rows are samples, or parts of them, it is none either.
    """
    for name, some in graph.named.items():
        if "SyncBatchNorm" in name:  # over several processes; it saves nothing to look at
            yield from some
    for node in graph.batch_norms:
        if len(x) > 1 and _trains(node):
            batch, channels, *_ = shape_of(node)
            first, *others = (source for source, _ in node.next_functions)
            # of a model's own gradient: of g and x, in cuDNN's node of x and g
            sources = [first, *others[:1]] if _is_twice(node) else [first]
            own = sources[-1] if node.name().startswith("Native") else first
            alone = batch == 1 and _is_instance_norm(own, channels, len(x))
            if not alone and any(_depends(source, x) for source in sources):
                yield node


def _is_twice(node: Node) -> bool:
    """Say whether a batch-norm's node is of a model's own gradient."""
    return node.name().endswith("BackwardBackward0")


def _trains(node: Node) -> bool:
    """Say whether a batch-norm's node is one with statistics of the batch; cuDNN's are."""
    return getattr(node, "_saved_train" if _is_twice(node) else "_saved_training", True)


def _depends(node: Node | None, x: Tensor) -> bool:
    """Say whether what `node` stands for was computed from x."""
    return get_gradient_edge(x).node in nodes(node)


def _is_instance_norm(source: Node | None, channels: int, samples: int) -> bool:
    sizes: tuple[int, ...] = getattr(source, "_saved_self_sym_sizes", ())
    return len(sizes) > 1 and sizes[0] * sizes[1] == channels and sizes[0] % samples == 0


def has_running_statistics(node: Node) -> bool:
    """Say whether a batch-norm could use running statistics instead of the batch's."""
    try:
        return getattr(node, "_saved_running_mean", node) is not None
    except RuntimeError:  # freed
        return True
