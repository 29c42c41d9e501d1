"""How many rows of a Jacobian go back through a graph at once: what is right, and what pays."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from jacfast.calling.listeners import listens
from jacfast.fused_attention import is_fused
from jacfast.graph import LEAF, Graph, is_nested, shape_of

# A batched (vmap) backward of n rows makes its calls once and reads each weight once, but takes n
# times as much through memory where a loop finds the tensors of one row in the cache; and memory
# that is large comes anew from the system each time. Measured on networks of all kinds, each in a
# process of its own: benchmarks/README.md, 'Batched projections'. On a CPU, with a graph, it pays
# while a row's largest tensor, of all samples, has less than so many bytes, or at most a sixth of
# the largest weight's.
ROW_BYTES = 1 << 18
OF_WEIGHT = 6
# There, `is_grads_batched` makes a loop over the rows of a convolution, and joins them: its tensors
# weigh so many times as much.
CONVOLVED = 4
CONVOLUTION = "Convolution"
# Without a graph so many bytes of rows go back at a time, or as above of the largest weight's:
# eight times as much where lean layers write less between, and half as much of other convolutions,
# which `torch.func.vmap` brings into another form. Less than four rows do not, if there are more.
ROWS_BYTES = 1 << 19
LEAN = 8
FEWEST = 4
# What is no row's: the leaves, and the weights as linear layers turn them. What multiplies by them.
WEIGHTS = (LEAF, "TBackward0")
PRODUCTS = ("AddmmBackward0", "MmBackward0")
# On a GPU launches count, not caches: the host makes one in 5 to 10 us, and a backward pass waits
# for that until a layer moves what memory gives in this time, 10 to 30 MB at 1 to 3 TB/s. Of layers
# as large as x, read and written in float32, that is one of about so many entries: all rows that
# one batched pass should have, which bounds its memory, too. Reckoned, not measured.
GPU_ENTRIES = 2**21


def together(count: int, x: Tensor, graph: Graph) -> bool:
    """Say whether it is right, and pays, that so many rows, to have a graph, go back at once."""
    if count < 2 or not batches(graph, create_graph=True):
        return False
    if x.device.type != "cpu":
        return count * x.numel() <= GPU_ENTRIES
    row, joined = _row(graph, x), CONVOLVED * _largest(graph, lambda name: CONVOLUTION in name)
    return row <= _weight(graph) // OF_WEIGHT or max(row, joined) < ROW_BYTES // x.element_size()


def at_a_time(count: int, x: Tensor, graph: Graph) -> int:
    """Return how many of so many rows, without a graph of theirs, should be one pass."""
    if count < 2 or not batches(graph, create_graph=False):
        return 1
    if x.device.type != "cpu":
        return count if count * x.numel() <= GPU_ENTRIES else 1
    most = max(ROWS_BYTES // x.element_size(), _weight(graph) // OF_WEIGHT)
    if any(isinstance(some[0], BackwardCFunction) for some in graph.named.values()):
        most *= LEAN
    elif any(CONVOLUTION in name for name in graph.named):
        most //= 2
    fitting = int(most // _row(graph, x))
    return fitting if fitting >= min(count, FEWEST) else 1


def _row(graph: Graph, x: Tensor) -> float:
    """Return the entries of a row's largest tensor, of all samples."""
    return max(1, x.numel(), _largest(graph, lambda name: name not in WEIGHTS))


def _largest(graph: Graph, wanted: Callable[[str], bool]) -> float:
    """Return the entries of the largest tensor that nodes of the wanted names stand for.

    A nested one, which does not tell, is taken for endless.
    """
    some = (node for name, of in graph.named.items() if wanted(name) for node in of)
    return max((math.inf if is_nested(n) else math.prod(shape_of(n)) for n in some), default=0)


def _weight(graph: Graph) -> int:
    """Return the entries of the largest matrix that rows are multiplied by."""
    products: list[Any] = [node for name in PRODUCTS for node in graph.named.get(name, ())]
    return max((math.prod(node._saved_mat2_sym_sizes) for node in products), default=0)


def batches(graph: Graph, create_graph: bool) -> bool:
    """Say whether a batched backward keeps the derivative of the derivative.

    Under vmap a Python autograd.Function (a compiled model is one, too) can lose its second
    derivative without an error; looped, the same graph is right, or raises. So one such node
    anywhere between x and the outputs rules batching out; lean layers do so only where a graph is
    asked for, as does group-norm: its second derivative has no batching rule, which is an error for
    most shapes and wrong for a few; and fused attention, whose second derivative is a hook's. What
    is before x does not matter. Who listens to inner gradients gets rows one by one, and so does
    anomaly detection, which cannot look at many and would blame a layer before the loop over them.
    """
    if torch.is_anomaly_enabled():
        return False
    for name, some in graph.named.items():
        if create_graph and ("GroupNorm" in name or is_fused(some[0])):
            return False
        if isinstance(some[0], BackwardCFunction):
            kinds = (node._forward_cls for node in some)  # type: ignore[attr-defined]
            if create_graph or not all(
                getattr(kind, "first_derivative_batches", False) for kind in kinds
            ):
                return False
    return not listens(graph)
