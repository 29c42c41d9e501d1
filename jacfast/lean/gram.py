"""The squared norm of J^T v without J^T v, where the network begins with a linear layer.

For cotangents d [R, O] of a first layer with weight W [O, I], ||d W||^2 = d (W W^T) d^T. With the
Gram matrix G = W W^T the value and the tangent of the layer cost R O^2 each, and the gradient is
(d^T d) W: R O^2 once more, and two products of O^2 I for all projections together, where the direct
way costs 3 R O I.

Where the device rounds the factors of a product (TF32 on a GPU, bfloat16 on a CPU) this is not
done: d (W W^T) d^T is small where terms cancel, and the direct way sums squares, which cannot.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from jacfast.graph import leaf_of, nodes
from jacfast.lean.sink import Layer

# What only puts entries in another order or shape, so that the norm of the gradient is the same.
RESHAPES = {
    f"{name}Backward0"
    for name in (
        *("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Clone"),
        *("Transpose", "Permute", "T"),
    )
}


class Gram:
    """The first layer of a network, through which alone its outputs depend on the root."""

    def __init__(self, layer: Layer, output: Tensor) -> None:
        self.layer = layer
        self.edge = get_gradient_edge(output)
        self.matrix: Tensor | None = None  # G
        self.moment: Tensor | None = None  # the sum of 2 d^T d over what has been collected

    @staticmethod
    def takes(x: Tensor, root: Tensor | None) -> bool:
        """Say whether x, the input of a layer, is `root` but for its shape."""
        between = (node for node in nodes(x) if leaf_of(node) is not root)
        same = _exact(x) and root is not None and x.numel() == root.numel()
        return same and all(node.name() in RESHAPES for node in between)

    def pays(self, rows: int) -> bool:
        """Say whether that many rows of cotangents cost fewer multiplications this way."""
        outputs, inputs = self.layer.weight.shape
        return rows * (3 * inputs - 2 * outputs) > 2 * outputs * inputs

    def alone(self, outputs: Tensor) -> bool:
        """Say whether no other way leads from `outputs` to the root."""
        root = self.layer.sink.root
        return all(leaf_of(node) is not root for node in nodes(outputs, past=self.edge.node))

    def square(self, d: Tensor) -> Tensor:
        """Return ||d W||^2, summed over the rows of d [R, O]."""
        if self.matrix is None:
            weight = self.layer.weight.detach()
            self.matrix = weight @ weight.t()
        return _Square.apply(d, self.layer.sink.anchor, self)

    def flush(self) -> None:
        """Put the gradient that has been collected in the sink."""
        if self.moment is not None:
            weight = self.layer.weight
            self.layer.sink.add(weight, self.moment @ weight.detach())
        self.moment = None


def _exact(x: Tensor) -> bool:
    """Say whether products of x's dtype are computed in it, on its device."""
    if x.dtype != torch.float32:
        return x.dtype == torch.float64
    backend = torch.backends.cuda if x.is_cuda else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("ieee", "none")


class _Square(torch.autograd.Function):
    """d -> sum of (d G) * d."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, anchor: Tensor, gram: Gram) -> Tensor:
        assert gram.matrix is not None
        tangent = d @ gram.matrix
        # the weight is saved for one thing: that a change of it in place is an error
        ctx.save_for_backward(d, tangent, gram.layer.weight.detach())
        ctx.gram = gram
        return (tangent * d).sum()

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple:  # type: ignore[override]
        d, tangent, _ = ctx.saved_tensors
        gram, scaled = ctx.gram, 2 * t * d
        if gram.layer.sink.collecting:
            if gram.moment is None:
                gram.moment = scaled.t() @ d
            else:
                gram.moment.addmm_(scaled.t(), d)
        return 2 * t * tangent, None, None
