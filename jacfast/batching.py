"""How many rows of a Jacobian go back through a graph at once: what is right, and what pays."""

import math

import torch
from torch import Tensor

from jacfast.calling.listeners import listens
from jacfast.calling.parts import BYTES
from jacfast.fused_attention import is_fused
from jacfast.graph import Graph, shape_of

# Up to this many samples, one batched (vmap) backward beats a Python loop over the projections:
# measured on a CPU, see benchmarks/README.md, 'Batched projections'.
BATCH_UP_TO = 32
# `is_grads_batched` has rules for few operations: of a convolution it makes a loop over the rows,
# which with a graph pays up to so many samples alone. Without one torch.func.vmap makes one call of
# it up to there, and does not pay beyond (benchmarks/README.md, 'Residual networks').
TOGETHER_UP_TO = 8
LOOPS = "ConvolutionBackward0"
# On a GPU launches count, not caches: the host makes one in 5 to 10 us, and a backward pass waits
# for that until a layer moves what memory gives in this time, 10 to 30 MB at 1 to 3 TB/s. Of layers
# as large as x, read and written in float32, that is one of about so many entries: all rows that
# one batched pass should have, which bounds its memory, too. Reckoned, not measured.
GPU_ENTRIES = 2**21


def fitting(graph: Graph, x: Tensor) -> int:
    """Return how many rows of each sample of x may pass back through `graph` at a time.

    On a CPU as many as keep the largest tensor below 16 MB; for a GPU `together` says whether all
    may.
    """
    if x.device.type != "cpu":
        return GPU_ENTRIES
    largest = max(math.prod(shape_of(node)) for node in graph)
    return BYTES // max(1, largest * x.element_size())


def few(count: int, x: Tensor, loops: bool = False) -> bool:
    """Say whether so many rows for each sample of x [N, ...] are worth one batched backward.

    One that `loops` is worth it for fewer samples.
    """
    if x.device.type == "cpu":
        return len(x) <= (TOGETHER_UP_TO if loops else BATCH_UP_TO)
    return count * x.numel() <= GPU_ENTRIES


def together(count: int, x: Tensor, graph: Graph, create_graph: bool) -> bool:
    """Say whether it is right, and worth it, that so many rows go back through `graph` at once."""
    loops = create_graph and LOOPS in graph.named
    return count > 1 and few(count, x, loops) and batches(graph, create_graph)


def batches(graph: Graph, create_graph: bool) -> bool:
    """Say whether a batched backward keeps the derivative of the derivative.

    Under vmap a Python autograd.Function (a compiled model is one, too) can lose its second
    derivative without an error; looped, the same graph is right, or raises. So one such node
    anywhere between x and the outputs rules batching out; lean layers do so only where a graph is
    asked for. Batch-norm does, too: its batching rule mistakes the layout of channels_last tensors
    where the strides allow both (one sample, say), and gives a wrong first derivative; and
    group-norm where a graph is asked for: its second derivative has no batching rule, which is an
    error for most shapes and wrong for a few; and fused attention, whose second derivative is a
    hook's. What is before x does not matter. Who listens to inner gradients gets rows one by one.
    """
    for name, some in graph.named.items():
        if "BatchNorm" in name:
            return False
        if create_graph and ("GroupNorm" in name or is_fused(some[0])):
            return False
        if isinstance(some[0], torch.autograd.function.BackwardCFunction):
            kinds = (node._forward_cls for node in some)  # type: ignore[attr-defined]
            if create_graph or not all(
                getattr(kind, "first_derivative_batches", False) for kind in kinds
            ):
                return False
    return not listens(graph)
