"""What a step is asked for, beside its options."""

from typing import NamedTuple

from torch import Tensor, nn

from jacfast.calling import Arguments
from jacfast.penalties.base import Penalty


class Asked(NamedTuple):
    """A call of a model, whose modules these are, that is to be penalised."""

    model: nn.Module
    modules: list[nn.Module]
    penalty: Penalty
    x: Tensor
    y: Tensor | None
    arguments: Arguments
