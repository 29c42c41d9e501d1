"""What a call changes in parameters: momentum encoders, u and v of a spectral norm, first values.

They are the optimiser's, but for those that a model writes to when it is called. Large ones are not
copied: a step must not pay for the frozen base of a LoRA.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

SMALL = 4096  # entries of a tensor, up to which its values are remembered, or compared


class Kept(NamedTuple):
    """A parameter, and what is remembered of it."""

    parameter: nn.Parameter
    version: int
    data: Tensor | None  # the very data, no copy; None of a subclass, which is watched alone
    values: Tensor | None  # a copy of these, of a small one

    @property
    def replaced(self) -> bool:
        """Say whether it has other data: ``parameter.data = ...``."""
        now, data = self.parameter, self.data
        return data is not None and (now.data_ptr(), now.shape) != (data.data_ptr(), data.shape)

    @property
    def changed(self) -> bool:
        """Say whether it has other data, or has been written to.

        Writes in place through ``.data`` are seen in the values, on a CPU.
        """
        if self.replaced or version(self.parameter) != self.version:
            return True
        return self.values is not None and differ(self.parameter, self.values)

    def undo(self) -> None:
        """Put it back, without a new version: graphs may have kept it as it was."""
        if self.replaced:
            self.parameter.data = self.data  # type: ignore[assignment]
        if self.values is not None:
            looked_at = self.parameter.device.type == "cpu"
            if not looked_at or differ(self.parameter, self.values):
                self.parameter.data.copy_(self.values)

    def begin(self) -> Tensor | None:
        """Return a tensor with the values that were remembered; None if nothing has them."""
        if self.values is None and version(self.parameter) == self.version:
            return self.data
        return self.values


def keep(held: Iterable[Any], copied: int) -> dict[int, Kept]:
    """Remember the parameters in what is held, by ids; by copies up to `copied` entries."""
    found: dict[int, Kept] = {}
    for one in held:
        if not isinstance(one, nn.Parameter) or id(one) in found or is_lazy(one):
            continue
        plain = type(one) is nn.Parameter and one.layout == torch.strided
        data = one.data if plain else None
        values = None if data is None or data.numel() > copied else data.clone()
        found[id(one)] = Kept(one, version(one), data, values)
    return found


def stand_ins(kept: Iterable[Kept]) -> dict[int, Tensor]:
    """Return parameters that begin where others were, to take their places; by the ids of these.

    There are none for large ones that have not moved, or have been written to in place.
    """
    found: dict[int, Tensor] = {}
    for one in kept:
        if (values := one.begin()) is not None:
            other = found[id(one.parameter)] = nn.Parameter(values, one.parameter.requires_grad)
            vars(other).update(vars(one.parameter))
            other.stands_for = stood_for(one.parameter)  # type: ignore[attr-defined]
    return found


def check_kept(kept: Iterable[Kept]) -> None:
    """Refuse parameters that have been written to, and of which there is no copy."""
    for one in kept:
        if one.changed:
            raise ValueError(
                "a second pass (at, precision, batch_norm='frozen') must begin where the first one "
                "did; the model writes in place, when it is called, to a parameter of shape "
                f"{list(one.parameter.shape)}, of which there is no copy: let it assign "
                "parameter.data, or make it a buffer"
            )


def stood_for(tensor: Tensor) -> Tensor:
    """Return the parameter that another one stands for in a second pass; else the tensor itself."""
    return getattr(tensor, "stands_for", tensor)


def differ(one: Tensor, before: Tensor) -> bool:
    """Say whether values on a CPU are others; NaN is NaN."""
    if one.device.type != "cpu" or one.layout != torch.strided or torch.equal(one, before):
        return False
    return not bool(((one == before) | ((one != one) & (before != before))).all())


def version(tensor: Tensor) -> int:
    """Return how often a tensor has been written to."""
    return 0 if tensor.is_inference() else tensor._version
