"""The vector-Jacobian product: how every penalty, attack and Jacobian row pulls cotangents back."""

import contextlib
import functools
import math
import threading
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from jacfast.calling.frozen import unfrozen
from jacfast.calling.listeners import listens
from jacfast.calling.outputs import CUT
from jacfast.calling.parts import BYTES
from jacfast.calling.pieces import explain_freed
from jacfast.fused_attention import is_fused
from jacfast.graph import Graph, shape_of
from jacfast.layouts import align
from jacfast.second import explain_new, watched

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

NO_PATH = (
    f"x must be part of the graph of the outputs; the outputs do not depend on x {CUT}. Where you "
    "call the model yourself, set x.requires_grad_() first, then call it on that very tensor with "
    "gradients enabled"
)


def pull_back(
    outputs: Tensor,
    x: Tensor,
    cotangents: Tensor,
    create_graph: bool,
    graph: Graph | None = None,
) -> Tensor:
    """Return ``J^T v`` for each of n cotangents per sample.

    Args:
        outputs: [N, K], computed from `x`.
        x: [N, ...], with requires_grad, part of the graph of `outputs`.
        cotangents: [n, N, K].
        create_graph: keep the result differentiable (for training); else it is a plain tensor.
        graph: of `outputs`, up to `x`, if it is known.

    Returns:
        [n, N, D], D the number of entries of one sample of `x`. The graph of `outputs` is kept.

    Raises:
        ValueError: the outputs do not depend on x. RuntimeError: a Function in the model has no
            second derivative, and `create_graph` asks for one.
    """
    if not outputs.requires_grad:
        raise ValueError(NO_PATH)
    if torch.compiler.is_compiling():
        return _joined(_looped(outputs, x, cotangents, create_graph))
    if not create_graph:
        return _joined(pull_back_blocks(outputs, x, cotangents))
    graph = graph or Graph(outputs, past=x.grad_fn)
    align(graph)
    pull = functools.partial(grad, outputs, x, create_graph=True)
    with watched(graph, x):
        at_once = together(len(cotangents), x, graph, create_graph=True)
        blocks = list(each_or_all(pull, cotangents, at_once))
    g = _joined([rows.reshape(len(rows), len(x), -1) for rows in blocks])
    explain_new(graph, g)
    explain_freed(g, graph.leaves)
    return g


def pull_back_blocks(outputs: Tensor, x: Tensor, cotangents: Tensor) -> list[Tensor]:
    """Return what `pull_back` does without a graph, in blocks [n_i, N, D] that are not joined."""
    if not outputs.requires_grad:
        raise ValueError(NO_PATH)
    graph = Graph(outputs, past=x.grad_fn)
    align(graph)
    count, at_once = len(cotangents), fitting(graph, x)
    if at_once > 1 and together(count, x, graph, create_graph=False):
        kinds = frozenset(graph.named)
        with contextlib.suppress(RuntimeError):  # what has no batching rule is looped over
            rows = [
                grad(outputs, x, part, create_graph=False, batched=True, kinds=kinds)
                for part in cotangents.chunk(-(-count // at_once))
            ]
            return [row.reshape(len(row), len(x), -1) for row in rows]
    return unfrozen(lambda: _looped(outputs, x, cotangents, create_graph=False))


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


def each_or_all(pull: Callable[..., Tensor], vectors: Tensor, at_once: bool) -> Iterator[Tensor]:
    """Yield what `pull` makes of the vectors [n, N, K]: one by one as [1, N, ...], or all at once.

    What has no batching rule is looped over.
    """
    if at_once:
        found = None
        with contextlib.suppress(RuntimeError):
            found = pull(vectors, batched=True)
        if found is not None:
            yield found
            return
    for v in vectors.unbind(0):
        yield pull(v)[None]


def _looped(outputs: Tensor, x: Tensor, cotangents: Tensor, create_graph: bool) -> list[Tensor]:
    """Return the rows one after the other, by what PyTorch has."""
    rows = (grad(outputs, x, v, create_graph) for v in cotangents)
    return [row.reshape(1, len(x), -1) for row in rows]


def _joined(blocks: list[Tensor]) -> Tensor:
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]  # one block is not copied


def grad(
    outputs: Tensor,
    x: Tensor | GradientEdge,
    cotangent: Tensor,
    create_graph: bool,
    batched: bool = False,
    kinds: frozenset[str] | None = None,
) -> Tensor:
    """Return ``J^T v``, of the shape of x; the graph of `outputs` is kept.

    Args:
        batched: whether there are many cotangents, in a dimension in front.
        kinds: the names of the graph's operations, where none is wanted of the result.

    Raises:
        ValueError: the outputs do not depend on x.
    """
    if kinds is not None and len(outputs) <= TOGETHER_UP_TO and _ruled.get(kinds, True):
        return _by_vmap(kinds, outputs, x, cotangent)
    return _grad(outputs, x, cotangent, create_graph, batched)


def _grad(
    outputs: Tensor,
    x: Tensor | GradientEdge,
    cotangent: Tensor,
    create_graph: bool = False,
    batched: bool = False,
) -> Tensor:
    (g,) = torch.autograd.grad(
        outputs,
        x,
        cotangent,
        create_graph=create_graph,
        retain_graph=True,
        is_grads_batched=batched,
        allow_unused=True,
    )
    if g is None:
        raise ValueError(NO_PATH)
    return g


def _by_vmap(
    kinds: frozenset[str], outputs: Tensor, x: Tensor | GradientEdge, cotangents: Tensor
) -> Tensor:
    """Return the rows without a graph by `torch.func.vmap`, which may have rules for the graph.

    Where it has none it loops, and warns. So the first call for each kind of graph looks at the
    warnings, which is a setting of the process, and those that follow do not.
    """
    pull = torch.func.vmap(functools.partial(_grad, outputs, x))
    if kinds in _ruled:
        return pull(cotangents)
    _ruled[kinds] = False  # if it raises, it is not asked again
    with _LOCK, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rows = pull(cotangents)
    others = [one for one in said if "performance drop" not in str(one.message)]
    _ruled[kinds] = len(others) == len(said)
    for one in others:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return rows


_LOCK = threading.Lock()
_ruled: dict[frozenset[str], bool] = {}  # whether vmap has rules for a graph of these operations


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
