"""Batch-norm with its running statistics: a scale and a shift per channel.

PyTorch's derivative of its backward pass touches the forward graph, and its backward pass takes a
gradient of one sample in some channels_last strides for one in others: a wrong result. This one
multiplies by the scale, in whatever layout, and hands on what has the layout of the input.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jacfast.lean.affine import Gradients, Layer, Wants

# Pixels of an image below which PyTorch's sums, which go through each channel of each image by
# itself, are slower than a copy with the channels last: at 2 x 2 by ten times.
FEW = 16


class EvalNorm(Layer):
    """(x - mean) / sqrt(variance + eps) * weight + bias, of x [N, C, ...]."""

    def __init__(self, mean: Tensor, variance: Tensor, eps: float, *layer: Any) -> None:
        super().__init__(*layer)
        self.mean, self.variance, self.eps = mean, variance, eps
        scale = (variance + eps).rsqrt()
        self.scale = scale if self.weight is None else scale * self.weight

    def constants(self) -> tuple[Tensor, ...]:
        return self.mean, self.variance

    def value(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, eps=self.eps)

    def push(self, t: Tensor) -> Tensor:
        return (t * self.scale.reshape(-1, *[1] * (t.dim() - 2))).to(t.dtype)

    def pull(self, g: Tensor) -> Tensor:
        return self.push(g)

    def of_weight(self, g: Tensor, t: Tensor) -> Tensor:
        none = torch.zeros_like(self.mean)  # a tangent has no mean
        return self._sums(g, t, none, of_weight=True, of_bias=False)[1]

    def gradients(self, g: Tensor, x: Tensor | None, wants: Wants) -> Gradients:
        of_x, of_weight, of_bias = wants
        if x is None:  # the weight is not trained
            bias = g.sum([d for d in range(g.dim()) if d != 1], dtype=self.mean.dtype)
            return self.pull(g) if of_x else None, None, bias if of_bias else None
        _, *found = self._sums(g, x, self.mean, of_weight, of_bias)
        return self.pull(g) if of_x else None, *found

    def _sums(
        self, g: Tensor, x: Tensor, mean: Tensor, of_weight: bool, of_bias: bool
    ) -> Gradients:
        """Return the gradients of weight and bias; that of x is several times as fast by `pull`."""
        if x[0, 0].numel() < FEW:
            g, x = (t.movedim(1, -1).reshape(-1, t.shape[1]) for t in (g, x))
        if g.stride() != x.stride():
            g = torch.empty_like(x).copy_(g)
        run = torch.ops.aten.native_batch_norm_backward
        wants = False, of_weight, of_bias
        return run(g, x, self.weight, mean, self.variance, None, None, False, self.eps, wants)
