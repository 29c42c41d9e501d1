"""What a run draws for the penalty: which samples, and the penalty's own randomness."""

import dataclasses

import torch
from torch import Tensor

from jacfast.calling import beside
from jacfast.penalties.base import Penalty


@dataclasses.dataclass(frozen=True)
class Order:
    """A random order of `samples` samples.

    Attributes:
        ahead: drawn before the model draws, from a source beside the default one.
    """

    samples: int
    device: torch.device
    ahead: bool = False

    def __call__(self, penalty: Penalty, generator: torch.Generator | None) -> Tensor:
        """Draw it."""
        source = beside(self.device) if self.ahead else generator
        return torch.randperm(self.samples, device=self.device, generator=source)


@dataclasses.dataclass(frozen=True)
class Noise:
    """The penalty's own randomness for `count` samples, whose outputs are like `outputs`."""

    count: int
    outputs: Tensor
    ahead = False

    def __call__(self, penalty: Penalty, generator: torch.Generator | None) -> Tensor | None:
        """Draw it."""
        return penalty.drawn(self.count, self.outputs, generator)


Draw = Order | Noise


def penalised_count(penalty: Penalty, samples: int) -> int:
    """Return how many samples of a batch are penalised."""
    return max(1, round(samples * penalty.subsample))


def is_own(generator: torch.Generator | None, device: torch.device) -> bool:
    """Say whether a generator is the caller's own, and none from which the model draws, too."""
    usual = torch.cuda.default_generators if device.type == "cuda" else (torch.default_generator,)
    return generator is not None and generator not in usual
