"""Convolutions of 1 to 3 dimensions.

PyTorch computes the weight gradient of a convolution's second derivative as a forward convolution
with a kernel as large as the feature map, group by group. It is the weight gradient of the tangent
with the cotangent, for which there is a routine.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jacfast.lean.affine import Gradients, Layer, Wants
from jacfast.lean.blocks import by_blocks, pays

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # layouts, by dimensions


class Shape(NamedTuple):
    """The numbers of a convolution, one per dimension but for the last."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Conv(Layer):
    """conv(x, weight) + bias."""

    def __init__(self, x: Tensor, shape: Shape, *layer: Any) -> None:
        super().__init__(*layer)
        self.shape, self.size = shape, x.shape
        # on a GPU nothing is measured yet
        self.blocks = x.device.type == "cpu" and pays(self.weight, *shape)
        last = LAST.get(x.dim(), torch.contiguous_format)
        self.layout = torch.contiguous_format if x.is_contiguous() else last

    def value(self, x: Tensor) -> Tensor:
        return CONVS[x.dim() - 2](x, self.weight, self.bias, *self.shape)

    def push(self, t: Tensor) -> Tensor:
        return CONVS[t.dim() - 2](t, self.weight, None, *self.shape)

    def pull(self, g: Tensor) -> Tensor:
        if self.blocks:
            stride, padding, _, _ = self.shape
            return by_blocks(g, self.weight, self.size, stride[0], (padding[0], padding[1]))
        return self._backward(g, self._stand_in(g), (True, False, False))[0]

    def of_weight(self, g: Tensor, t: Tensor) -> Tensor:
        return self._backward(g, t, (False, True, False))[1]

    def gradients(self, g: Tensor, x: Tensor | None, wants: Wants) -> Gradients:
        of_x, of_weight, of_bias = wants
        blocks = of_x and self.blocks
        mask = (of_x and not blocks, of_weight, of_bias)
        found = self._backward(g, self._stand_in(g) if x is None else x, mask)
        return (self.pull(g), *found[1:]) if blocks else found

    def _stand_in(self, g: Tensor) -> Tensor:
        """Return an input for routines that look at its shape and layout only."""
        return torch.empty(self.size, dtype=g.dtype, device=g.device, memory_format=self.layout)

    def _backward(self, g: Tensor, x: Tensor, mask: Wants) -> Gradients:
        run, zero = torch.ops.aten.convolution_backward, [0] * len(self.shape.stride)
        *sizes, groups = self.shape
        channels = [self.weight.shape[0]]
        return run(g, x, self.weight, channels, *sizes, False, zero, groups, mask)
