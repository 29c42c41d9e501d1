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
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from jacfast.calling.contexts import autocasts
from jacfast.graph import leaf_of, nodes
from jacfast.lean.sweep import COLLECT, Sweep

# What gives entries another shape, and what puts them in another order as well: the norm of the
# gradient is the same.
SHAPES = ("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Clone")
ORDERS = ("Transpose", "Permute", "T")
IN_ORDER = {f"{name}Backward0" for name in SHAPES}
RESHAPES = IN_ORDER | {f"{name}Backward0" for name in ORDERS}


class Gram:
    """The first layer of a network, through which alone its outputs depend on the root.

    Of its input x nothing is known but that it `takes` it: rows of x may be of tokens, of channels,
    or of samples in another dimension.
    """

    def __init__(
        self, sweep: Sweep, root: Tensor, weight: Tensor, x: Tensor, output: Tensor
    ) -> None:
        self.sweep, self.root, self.weight = sweep, root, weight
        self.edge = get_gradient_edge(output)
        # so each sample has as many rows of x, one after another
        self._in_order = _leads(root, x, IN_ORDER)
        self.matrix: Tensor | None = None  # G
        self.moment: Tensor | None = None  # the sum of 2 d^T d over what has been collected

    @staticmethod
    def takes(x: Tensor, weight: Tensor, root: Tensor) -> bool:
        """Say whether x, the input of a linear layer, is `root` but for its shape."""
        usual = type(weight) in (Tensor, nn.Parameter) and weight.is_leaf
        if x.numel() != root.numel() or not usual or not _exact(x) or x.dtype != weight.dtype:
            return False
        if x is not root and x.grad_fn is None:
            return False
        return root.requires_grad and _leads(root, x, RESHAPES)

    @staticmethod
    def pays(weight: Tensor, rows: int) -> bool:
        """Say whether that many rows of cotangents cost fewer multiplications this way."""
        outputs, inputs = weight.shape
        return rows * (3 * inputs - 2 * outputs) > 2 * outputs * inputs

    def alone(self, outputs: Tensor) -> bool:
        """Say whether no other way leads from `outputs` to the root."""
        return all(leaf_of(node) is not self.root for node in nodes(outputs, past=self.edge.node))

    def some(self, d: Tensor, samples: Tensor) -> Tensor:
        """Return those rows of d [..., O] that are of some samples, the only ones that are not 0.

        All rows, where it is not certain whose they are.
        """
        count, rows = len(self.root), d.shape[:-1].numel()
        if not self._in_order or rows % count:
            return d
        return d.reshape(count, -1, d.shape[-1]).index_select(0, samples)

    def square(self, d: Tensor) -> Tensor:
        """Return ||d W||^2, summed over the rows of d [..., O]."""
        if self.matrix is None:
            weight = self.weight.detach()
            self.matrix = weight @ weight.t()
        return _Square.apply(d.reshape(-1, d.shape[-1]), self.weight, self)

    def collected(self) -> Tensor | None:
        """Return the gradient of the weight that the sweeps so far have left, and forget it."""
        moment, self.moment = self.moment, None
        return None if moment is None else moment @ self.weight.detach()


def _leads(root: Tensor, x: Tensor, by: set[str]) -> bool:
    """Say whether operations of these names, and no others, lead from `root` to x."""
    return all(node.name() in by for node in nodes(x) if leaf_of(node) is not root)


def _exact(x: Tensor) -> bool:
    """Say whether products of x's dtype are computed in it, on its device."""
    if autocasts(x.device.type):
        return False
    if x.dtype != torch.float32:
        return x.dtype == torch.float64
    backend = torch.backends.cuda if x.is_cuda else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("ieee", "none")


class _Square(torch.autograd.Function):
    """d -> sum of (d G) * d."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, weight: Tensor, gram: Gram) -> Tensor:
        assert gram.matrix is not None
        tangent = d @ gram.matrix
        # the weight is saved for one thing: that a change of it in place is an error
        ctx.save_for_backward(d, tangent, weight)
        ctx.gram = gram
        return (tangent * d).sum()

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple:  # type: ignore[override]
        d, tangent, _ = ctx.saved_tensors
        gram, scaled = ctx.gram, 2 * t * d
        if gram.sweep.kind == COLLECT and ctx.needs_input_grad[1]:
            if gram.moment is None:
                gram.moment = scaled.t() @ d
            else:
                gram.moment.addmm_(scaled.t(), d)
        return 2 * t * tangent, None, None
