"""The gradients of a step, parameter by parameter, added up over its sweeps."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Gradients:
    """One sum for each parameter.

    The first summand is taken as it is, whoever else may hold it; the second makes a new tensor,
    and all further ones are added to that in place.
    """

    def __init__(self) -> None:
        self._sums: dict[Tensor, Tensor] = {}
        self._own: set[Tensor] = set()  # of which the sum is a tensor that nobody else has
        self._before: dict[Tensor, Tensor] = {}
        self._factor: Tensor | None = None  # of the sums of before

    def add(self, parameter: Tensor, value: Tensor) -> None:
        """Add `value` to the gradient of `parameter`."""
        if parameter in self._own:
            self._sums[parameter].add_(value)
            return
        before = self._before.pop(parameter, None)
        if before is not None:
            assert self._factor is not None
            value = torch.addcmul(value, before, self._factor.to(before.dtype))
        elif parameter in self._sums:
            value = self._sums[parameter] + value
        else:
            self._sums[parameter] = value
            return
        self._sums[parameter] = value
        self._own.add(parameter)

    def scale(self, factor: Tensor) -> None:
        """Multiply what there is so far, when something is added to it or it is asked for."""
        self._before, self._factor = self._sums, factor
        self.clear()

    def clear(self) -> None:
        """Forget what there is."""
        self._sums, self._own = {}, set()

    def pop(self, parameters: Iterable[Tensor]) -> list[Tensor | None]:
        """Return the gradients, None for what has none, and hold them no longer.

        AccumulateGrad keeps a tensor that nobody else holds, and copies any other.
        """
        return [self._pop(parameter) for parameter in parameters]

    def _pop(self, parameter: Tensor) -> Tensor | None:
        before = self._before.pop(parameter, None)
        if before is not None:
            assert self._factor is not None
            return before * self._factor.to(before.dtype)
        self._own.discard(parameter)
        return self._sums.pop(parameter, None)
