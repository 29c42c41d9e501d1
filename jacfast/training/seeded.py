"""PyTorch's own random generators, seeded for a while, then as they were."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def generators_of(model: nn.Module) -> list[torch.Generator]:
    """Return the global generators that a step may draw from: the CPU's, those of its GPUs."""
    gpus = {parameter.device.index for parameter in model.parameters() if parameter.is_cuda}
    return [torch.default_generator, *(torch.cuda.default_generators[i] for i in sorted(gpus))]


@contextlib.contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[list[torch.Generator]]:
    """Seed the generators of the devices of `model`, and no others; put their states back."""
    generators = generators_of(model)
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield generators
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
