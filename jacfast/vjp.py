"""The vector-Jacobian product: how every penalty, attack and Jacobian row pulls cotangents back."""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from jacfast.batching import CONVOLUTION, at_a_time, together
from jacfast.calling.frozen import unfrozen
from jacfast.calling.outputs import CUT
from jacfast.calling.pieces import explain_freed
from jacfast.graph import Graph
from jacfast.lacking import explain_new
from jacfast.layouts import align
from jacfast.second import watched

NO_PATH = (
    f"x must be part of the graph of the outputs; the outputs do not depend on x {CUT}. Where you "
    "call the model yourself, set x.requires_grad_() first, then call it on that very tensor with "
    "gradients enabled"
)


def pull_back(
    outputs: Tensor, x: Tensor, cotangents: Tensor, create_graph: bool, graph: Graph | None = None
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
        at_once = together(len(cotangents), x, graph)
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
    count, at_once = len(cotangents), at_a_time(len(cotangents), x, graph)
    if at_once > 1:
        kinds = frozenset(graph.named)
        with contextlib.suppress(RuntimeError):  # what has no batching rule is looped over
            rows = [
                grad(outputs, x, part, create_graph=False, batched=True, kinds=kinds)
                for part in cotangents.chunk(-(-count // at_once))
            ]
            return [row.reshape(len(row), len(x), -1) for row in rows]
    return unfrozen(lambda: _looped(outputs, x, cotangents, create_graph=False))


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
    # vmap is faster for convolutions alone, and for more than one sample
    convolved = len(outputs) > 1 and any(CONVOLUTION in kind for kind in kinds or ())
    if kinds and convolved and _ruled.get(kinds, True):
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
