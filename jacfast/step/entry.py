"""Where J^T v ends in plain double backward: at x, or behind a first linear layer.

A network that begins with a linear layer, z = W x + b, has J^T v = W^T d, d the gradient at z. So x
needs no gradient, and unless the caller wants it autograd computes none: of six products with W one
less.
"""

import contextlib
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from jacfast.calling import in_order
from jacfast.penalties.base import Penalty


class Entry:
    """A call of the model, and how its Jacobian is reached from where cotangents are pulled to.

    Attributes:
        returned: what the model returned.
        x: what the penalty's cotangents may look at; with a graph, if they need one.
        edge: where to pull them to.
        first: the first operation, if the way leads to x.
    """

    edge: Tensor | GradientEdge

    def __init__(
        self,
        model: nn.Module,
        linear: nn.Linear | None,
        x: Tensor,
        mode: AbstractContextManager | None = None,
    ) -> None:
        """Call the model, in the `mode`; it begins with the layer `linear`, if that is given."""
        self._weight: Tensor | None = None
        self.first: Node | None = None
        if linear is not None:
            self.x, self._weight = x, linear.weight
            self.returned: Any = self._behind(linear, in_order(model))
            return
        # not the caller's tensor itself: its hooks and its grad are for the caller's backward pass
        self.x = self.edge = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        entry = self.x.clone()  # the model may begin in place
        self.first = entry.grad_fn
        with mode or contextlib.nullcontext():
            self.returned = model(entry)

    def _behind(self, linear: nn.Linear, layers: list[nn.Module]) -> Tensor:
        """Call the layers, and keep where the first linear one ends: the next may be in place."""
        at, z = layers.index(linear), self.x
        for layer in layers[: at + 1]:
            z = layer(z)
        self.edge = get_gradient_edge(z)
        for layer in layers[at + 1 :]:
            z = layer(z)
        return z

    def row(self, d: Tensor, samples: Tensor | None, batched: bool) -> Tensor:
        """Return J^T v [N, ...] of the gradient [N, ...] at the edge, or that of some samples.

        If `batched`, of many cotangents, in a dimension in front.
        """
        g = d if self._weight is None else d @ self._weight
        return g if samples is None else g.index_select(int(batched), samples)


def first_linear(model: nn.Module, penalty: Penalty) -> nn.Linear | None:
    """Return the linear layer with which a `separable` model begins, if the penalty needs no x."""
    for layer in in_order(model) if penalty.of_logits else []:
        if type(layer) is nn.Linear:  # without a trained parameter its output has no graph
            return layer if any(p.requires_grad for p in layer.parameters()) else None
        if type(layer) not in (nn.Flatten, nn.Identity):
            return None
    return None
