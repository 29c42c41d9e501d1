"""What a model draws from seed 0, and whether it draws at all; generators are left as they were."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def devices_of(device: torch.device) -> list[torch.device]:
    """Return the GPU, if it is one: whose random numbers count beside the CPU's."""
    return [device] if device.type == "cuda" else []


@contextlib.contextmanager
def at_seed(device: torch.device) -> Iterator[Callable[[], bool]]:
    """Draw from seed 0 inside the context; the value says, inside, whether anything was drawn.

    From the generators of the CPU and of `device`, and from those of NumPy and Python.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices_of(device)):
        try:
            torch.default_generator.manual_seed(0)
            for gpu in devices_of(device):
                torch.cuda.default_generators[gpu.index].manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            before = _states(device)
            yield lambda: not all(map(torch.equal, before, _states(device)))
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _states(device: torch.device) -> list[Tensor]:
    gpu = [torch.cuda.get_rng_state(one) for one in devices_of(device)]
    numpy: Any = np.random.get_state()  # noqa: NPY002
    others = [*random.getstate()[1], *numpy[1].tolist(), numpy[2]]
    return [torch.get_rng_state(), *gpu, torch.tensor(others)]
