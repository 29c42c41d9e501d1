"""Batch-norm's backward pass, right in every layout.

PyTorch's takes a gradient whose strides fit more than one layout (it has a dimension of size 1: one
sample, or a row of pixels) in another layout than the input, and returns wrong gradients of input,
weight and bias, without an error; in training mode as well, and so for instance-norm, which is a
batch-norm of one sample. No other layer is known to do so.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jacfast.calling.warning import warn
from jacfast.graph import Graph, shape_of

DONE = "jacfast.layouts"  # in a node's metadata
FUSED = "DifferentiableGraphBackward"  # several operations that TorchScript has made one


def align(graph: Graph) -> None:
    """Let each batch-norm of a graph take its incoming gradient in the layout of its input.

    For good: later backward passes through the same graph, of the loss or of what has been
    differentiated, go through the same nodes.
    """
    for name, some in graph.named.items():
        if name.endswith(FUSED) and any(shape_of(node)[:1] == [1] for node in some):
            warn(
                "TorchScript has fused layers of the model, for one sample: if there is batch-norm "
                "among them, PyTorch's own gradient can be wrong, and cannot be put right from "
                "outside. Pass the model as it was before torch.jit, or two samples"
            )
    for node in graph.batch_norms:
        shape = shape_of(node)
        if len(shape) < 3 or 1 not in shape:
            continue  # strides fit one layout only
        known: dict[Any, Any] = node.metadata  # type: ignore[assignment]
        if DONE in known:
            continue
        try:
            saved = node._saved_input  # type: ignore[attr-defined]
        except RuntimeError:  # freed, or changed in place: PyTorch's own error
            continue
        if saved.layout == torch.strided:
            known[DONE] = True
            # its strides alone: a hook that holds tensors would keep them when the graph is freed
            node.register_prehook(_in_strides(torch.empty_like(saved, device="meta").stride()))


def _in_strides(strides: tuple[int, ...]) -> Callable[..., Any]:
    def hook(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        g, *others = gradients
        if g is None or g.stride() == strides:
            return gradients
        return g.new_empty_strided(g.shape, strides).copy_(g), *others

    return hook
