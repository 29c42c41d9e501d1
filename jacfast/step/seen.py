"""Models that were PyTorch's own throughout in their last call of a kind: the next is not watched.

Of a model that `jacfast.calling.parts` does not know it shows in a call, layer by layer, that
nothing is lean (`jacfast.step.run`). That costs more than many a small layer; so what was found is
remembered by the shape of x. A model that does something else the next time is right all the same:
what can be wrong is looked at in the graph of every call, and what is lean is so for speed alone.
"""

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jacfast.calling import parameters
from jacfast.graph import Graph
from jacfast.layouts import align
from jacfast.lean import hooked
from jacfast.penalties.base import Penalty, check_apart
from jacfast.step.checks import check_way
from jacfast.step.pending import check_leaves


class Kind(NamedTuple):
    """What the calls have in common of which the same is expected."""

    shape: torch.Size
    dtype: torch.dtype
    summed: bool  # such a penalty may be had by a Gram matrix
    subsample: float


# By number, as a module of a user's own may have no hash; an entry goes with its module.
_seen: dict[int, tuple[Any, set[Kind]]] = {}


def remember(model: nn.Module, penalty: Penalty, x: Tensor) -> None:
    """Note that a call with x found nothing lean, no attention and no hooks of saved tensors."""
    if _simple(penalty):
        number = id(model)
        known = _seen.get(number)
        if known is None:
            one = weakref.ref(model, lambda _: _seen.pop(number, None))
            known = _seen[number] = (one, set())
        known[1].add(_kind(penalty, x))


def is_known(model: nn.Module, modules: list[nn.Module], penalty: Penalty, x: Tensor) -> bool:
    """Say whether that is so of a call with x, and nothing is asked for that needs the node."""
    known = _seen.get(id(model))
    if known is None or known[0]() is not model or not _simple(penalty):
        return False
    if _kind(penalty, x) not in known[1] or x.requires_grad or x.device.type != "cpu":
        return False
    trained = any(p.requires_grad for p in parameters(modules))
    return trained and torch.is_grad_enabled() and not hooked()


def _simple(penalty: Penalty) -> bool:
    """Say whether one vector is pulled back: else it may be by vmap, which has other bits."""
    return bool(getattr(penalty, "n", 1) == 1)


def _kind(penalty: Penalty, x: Tensor) -> Kind:
    return Kind(x.shape, x.dtype, penalty.summed, penalty.subsample)


def looked_at(logits: Tensor, outputs: Tensor, x: Tensor, modules: list[nn.Module]) -> Graph:
    """Return the graph of a call of an unknown model, after the looks that each call gets."""
    check_way(outputs)
    graph = Graph(logits, outputs)
    check_leaves(graph, [x, *parameters(modules)])
    check_apart(graph, x)
    align(graph)
    return graph
