"""A second derivative for 2-norms of vectors that are zero.

PyTorch has 0 for the gradient of ||v|| at v = 0, g v / ||v|| where ||v|| is not 0, but 0/0 for the
derivative of that: one row of zeros (a window of attention that is padded, behind a normalisation
of queries and keys) makes the penalty's gradient NaN. What divides by max(||v||, eps), as
`F.normalize` and `F.cosine_similarity` do, is linear there. So the norm counts as constant where
its gradient is 0, whose derivative then is 0, too.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

# by name, where the node keeps which norm it is
ORDERS = {"LinalgVectorNormBackward0": "_saved_ord", "NormBackward1": "_saved_p"}


def is_norm(node: Node) -> bool:
    """Say whether `node` is the backward pass of a 2-norm."""
    order = ORDERS.get(node.name())
    return order is not None and getattr(node, order) == 2


def of_norm(node: Any) -> Any:
    """Return the hook of a 2-norm's node that gives its result a derivative at zero."""
    x, norm = node._saved_self, node._saved_result  # not in the hook: a checkpoint gives once
    dims = () if node._saved_keepdim else node._saved_dim or ()

    def hook(returned: tuple[Tensor | None, ...], incoming: tuple[Tensor | None, ...]) -> Any:
        (g,), length = incoming, norm
        if g is None:
            return None
        for dim in sorted(_signed(dim) % x.dim() for dim in dims):
            g, length = g.unsqueeze(dim), length.unsqueeze(dim)
        return ((x * (g / length.masked_fill(length == 0, torch.inf))).to(x.dtype),)

    return hook


def _signed(dim: int) -> int:
    """Return what a node has saved of a dimension: -1 as 2^64 - 1."""
    return dim - 2**64 if dim >= 2**63 else dim
