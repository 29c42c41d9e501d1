"""Models that were PyTorch's own throughout in their last call of a kind: the next is not watched.

Of a model that `jacfast.calling.parts` does not know it shows in a call, layer by layer, that
nothing is lean (`jacfast.step.run`). That costs more than many a small layer; so what was found is
remembered by the shape of x. A model that does something else the next time is right all the same:
what can be wrong is looked at in the graph of every call, and what is lean is so for speed alone.
"""

import dataclasses
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jacfast.calling import check_depends, parameters
from jacfast.calling.contexts import hooked
from jacfast.graph import Graph
from jacfast.layouts import align
from jacfast.lean import ATTENTION, Lean, Sweep
from jacfast.penalties.base import Penalty
from jacfast.penalties.checks import check_apart
from jacfast.step.entry import Entry
from jacfast.step.pending import check_leaves


class Kind(NamedTuple):
    """What the calls have in common of which the same is expected."""

    shape: torch.Size
    dtype: torch.dtype
    summed: bool  # such a penalty may be had by a Gram matrix
    subsample: float


# By number, as a module of a user's own may have no hash; an entry goes with its module. Of each
# kind, whether attention was called.
_seen: dict[int, tuple[Any, dict[Kind, bool]]] = {}
MOST = 256  # kinds of a model, as where each batch has a length of its own: then all anew


def remember(model: nn.Module, penalty: Penalty, x: Tensor, attends: bool) -> None:
    """Note that a call with x found nothing lean, and no hooks of saved tensors."""
    if _simple(penalty):
        number = id(model)
        known = _seen.get(number)
        if known is None:
            one = weakref.ref(model, lambda _: _seen.pop(number, None))
            known = _seen[number] = (one, {})
        if len(known[1]) >= MOST:
            known[1].clear()
        known[1][_kind(penalty, x)] = attends


def _simple(penalty: Penalty) -> bool:
    """Say whether one vector is pulled back: else it may be by vmap, which has other bits."""
    return bool(getattr(penalty, "n", 1) == 1)


def _kind(penalty: Penalty, x: Tensor) -> Kind:
    return Kind(x.shape, x.dtype, penalty.summed, penalty.subsample)


@dataclasses.dataclass
class Expected:
    """A call of a model, of these parameters, of which it is expected that its graph is plain."""

    parameters: list[Tensor]
    attends: bool

    def call(self, model: nn.Module, x: Tensor) -> Entry:
        """Call the model; attention, if there was any, runs as it did when it was watched."""
        if not self.attends:
            return Entry(model, None, x)
        lean = Lean(Sweep(), ATTENTION)
        entry = Entry(model, None, x, lean)
        if lean.hooked:  # in a checkpoint, it seems, which will call it again
            raise Otherwise(entry, lean)
        return entry

    def graph(self, logits: Tensor, outputs: Tensor, x: Tensor) -> Graph:
        """Return the graph of the call, after the looks that each call gets."""
        check_depends(outputs.requires_grad)
        graph = Graph(logits, outputs)
        check_leaves(graph, [x, *self.parameters])
        check_apart(graph, x)
        align(graph)
        return graph


class Otherwise(Exception):
    """A call that is not plain, against what was expected: what has been called, and how."""

    def __init__(self, entry: Entry, lean: Lean) -> None:
        super().__init__()
        self.entry, self.lean = entry, lean


def expected(
    model: nn.Module, modules: list[nn.Module], penalty: Penalty, x: Tensor
) -> Expected | None:
    """Return what is expected of a call with x; None if nothing is, or if it needs the node."""
    known = _seen.get(id(model))
    if known is None or known[0]() is not model or not _simple(penalty):
        return None
    attends = known[1].get(_kind(penalty, x))
    if attends is None or x.requires_grad or x.device.type != "cpu":
        return None
    own = parameters(modules)
    usual = any(p.requires_grad for p in own) and torch.is_grad_enabled() and not hooked()
    return Expected(own, attends) if usual else None


def forget(model: nn.Module) -> None:
    """Expect nothing more."""
    _seen.pop(id(model), None)
