"""What a model draws from seed 0, and whether it draws at all; generators are left as they were."""

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch

from jacfast.calling.draws import rng_states
from jacfast.calling.sources import Sources, of_process


def devices_of(device: torch.device) -> list[torch.device]:
    """Return the GPU, if it is one: whose random numbers count beside the CPU's."""
    return [device] if device.type == "cuda" else []


@contextlib.contextmanager
def at_seed(device: torch.device) -> Iterator[Callable[[], bool]]:
    """Draw from seed 0 inside the context; the value says, inside, whether anything was drawn.

    From the generators of the CPU and of `device`, and from those of NumPy and Python.
    """
    others = Sources(of_process())
    with torch.random.fork_rng(devices_of(device)):
        try:
            torch.default_generator.manual_seed(0)
            for gpu in devices_of(device):
                torch.cuda.default_generators[gpu.index].manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            before, seeded = rng_states(device), others.now()
            yield lambda: seeded.moved() or not all(map(torch.equal, before, rng_states(device)))
        finally:
            others.put()
