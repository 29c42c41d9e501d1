"""Dropout of a batch that passes through a model in parts: the masks of one call on all of it."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jacfast.calling.contexts import hooked
from jacfast.calling.tree import tree

LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
FUNCTIONS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d}


def drops(model: nn.Module) -> bool:
    """Say whether a layer of dropout is in training mode."""
    return any(isinstance(layer, LAYERS) and layer.training for layer in tree(model))


class Masks:
    """The masks of a call, drawn at its first part for all N samples, in the order of the layers.

    So the same numbers are drawn, in the same order, as by one call on the batch, and each sample
    has the masks that it has there. But for a checkpoint, which draws again in the backward pass,
    from where it has drawn: what is inside is left alone.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._drawn: list[Tensor] = []

    def of(self, index: slice | Tensor) -> TorchFunctionMode:
        """Return a mode in which dropout uses the masks of these samples."""
        return _Part(self, index)

    def number(self, place: int, x: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """Return 0 or 1 / (1 - p) for every entry of all samples, for the layer at `place`."""
        if place == len(self._drawn):
            self._drawn.append(drop(ones_of(x, self.samples)))
        return self._drawn[place]


def ones_of(x: Tensor, rows: int) -> Tensor:
    """Return ones [rows, ...] in the layout of x [N, ...], in which masks are drawn.

    Where strides tell which of two dimensions is outer. Of one sample they may not.
    """
    shape = (rows, *x.shape[1:])
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    ones = x.new_ones([shape[d] for d in order])
    return ones.permute([order.index(d) for d in range(x.dim())])


class _Part(TorchFunctionMode):
    def __init__(self, masks: Masks, index: slice | Tensor) -> None:
        super().__init__()
        self.masks, self.index, self.place = masks, index, 0

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in FUNCTIONS and not hooked():
            return self._drop(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _drop(
        self,
        func: Callable,
        input: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Tensor:
        rows = (
            self.index if isinstance(self.index, Tensor) else range(self.masks.samples)[self.index]
        )
        if not training or input.shape[:1] != (len(rows),):  # of other samples than these, or none
            return func(input, p, training, inplace)
        numbers = self.masks.number(self.place, input, lambda ones: func(ones, p, True))
        self.place += 1
        factor = numbers[self.index]
        return input.mul_(factor) if inplace else input * factor
