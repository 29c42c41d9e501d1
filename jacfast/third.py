"""A third derivative for normalisations, of which PyTorch's takes mean and deviation for constants.

A model that differentiates itself (forces of an energy, scores) has the first derivative of its
normalisations in its output, the penalty the second, and the gradient of the penalty the third.
PyTorch computes it of `layer_norm` (up to 2.15), and of batch-norm in training mode (up to 2.13),
which instance-norm is, as if the statistics were constants: wrong, without an error. With
h = weight g, s = (var + eps)^-1/2 and n = s (x - mean) the first derivative is

    s (h - mean(h) - n mean(n h)),    sum g n of the weight,    sum g of the bias,

means over what is normalised, sums over what shares an entry of the weight. This reaches models
that differentiate themselves once, in eager mode: after that no node is left to be mended.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

LAYER, BATCH = "NativeLayerNormBackwardBackward0", "NativeBatchNormBackwardBackward0"
CUDNN = "CudnnBatchNormBackwardBackward0"  # in training mode alone
PLACES = {LAYER: (0, 1, 4), BATCH: (0, 1, 2), CUDNN: (1, 0, 2)}  # of g, x and weight in a node


class Normalised(NamedTuple):
    """What the first derivative of a normalisation depends on.

    Attributes:
        tensors: g, x and, if there is one, the weight.
        eps: a number, or one for each row.
        dims: those that are normalised.
        kept: the shape of the weight, ones where its entries are shared.
    """

    tensors: list[Tensor]
    eps: Any
    dims: list[int]
    kept: list[int]

    def first(self, g: Tensor, x: Tensor, weight: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the first derivative, by operations that can be differentiated."""
        shift = x - x.mean(self.dims, keepdim=True)
        s = (shift.square().mean(self.dims, keepdim=True) + self.eps).rsqrt()
        n, h = shift * s, g if weight is None else g * weight.view(self.kept)
        means = h.mean(self.dims, keepdim=True) + n * (h * n).mean(self.dims, keepdim=True)
        return s * (h - means), (g * n).sum_to_size(self.kept), g.sum_to_size(self.kept)


def of_normalisation(node: Any) -> Any:
    """Return the hook of a node of `PLACES` that gives its result a derivative.

    None where the statistics are constants.
    """
    what = _of_layer(node) if node.name() == LAYER else _of_batch(node)
    if what is None:
        return None
    places = PLACES[node.name()]

    def hook(returned: tuple[Tensor | None, ...], incoming: tuple[Tensor | None, ...]) -> Any:
        inputs = [t.view_as(t) for t in what.tensors]
        inputs = [t if t.requires_grad else t.requires_grad_() for t in inputs]
        wide = [t.to(torch.promote_types(t.dtype, torch.float32)) for t in inputs]
        pairs = [(t, c) for t, c in zip(what.first(*wide), incoming, strict=True) if c is not None]
        outputs, cotangents = [t for t, _ in pairs], [c.view_as(t) for t, c in pairs]
        found = torch.autograd.grad(
            outputs, inputs, cotangents, create_graph=True, allow_unused=True
        )
        ours = dict(zip(places, found, strict=False))
        return tuple(None if old is None else ours.get(k) for k, old in enumerate(returned))

    return hook


def _of_batch(node: Any) -> Normalised | None:
    if node.name() == BATCH and not node._saved_train:
        return None
    x, eps = node._saved_input, node._saved_eps if node.name() == BATCH else node._saved_epsilon
    dims = [d for d in range(x.dim()) if d != 1]
    kept = [size if d == 1 else 1 for d, size in enumerate(x.shape)]
    return Normalised(_tensors(node), eps, dims, kept)


def _of_layer(node: Any) -> Normalised:
    x = node._saved_input
    dims = list(range(x.dim() - len(node._saved_normalized_shape), x.dim()))
    kept = [size if d in dims else 1 for d, size in enumerate(x.shape)]
    wide = torch.promote_types(x.dtype, torch.float32)  # half types save 1/s in theirs, on a CPU
    var = x.detach().to(wide).var(dims, correction=0, keepdim=True)
    return Normalised(_tensors(node), node._saved_rstd.to(wide).pow(-2) - var, dims, kept)


def _tensors(node: Any) -> list[Tensor]:
    g = node._saved_grad_output if node.name() == CUDNN else node._saved_grad_out
    saved = g, node._saved_input, node._saved_weight
    return [t for t in saved if t is not None]
