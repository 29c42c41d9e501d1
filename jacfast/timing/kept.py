"""A model is looked at, and is afterwards what it was."""

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from jacfast.calling import State
from jacfast.step.traced import fresh


def devices_of(device: torch.device) -> list[torch.device]:
    """Return the GPU, if it is one: whose random numbers count beside the CPU's."""
    return [device] if device.type == "cuda" else []


@contextlib.contextmanager
def kept(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put everything of a model back at the end, also after an exception or an interrupt.

    Parameters, their ``.grad``, buffers, attributes and flags of its modules, the random numbers of
    torch, NumPy and Python, and what is known of its recorded steps.
    """
    parameters = list(model.parameters())
    gradients = [p.grad for p in parameters]
    values = [p.detach().clone() for p in parameters]
    state, python, numpy = State(model), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices_of(device)), fresh(model), torch.enable_grad():
            clear(parameters)
            yield
    finally:
        state.undo()
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            for p, gradient, value in zip(parameters, gradients, values, strict=True):
                p.grad = gradient
                if not torch.equal(p, value):
                    p.copy_(value)


def clear(parameters: list[nn.Parameter]) -> None:
    """Remove the gradients, as ``zero_grad`` does."""
    for p in parameters:
        p.grad = None


@contextlib.contextmanager
def at_seed(device: torch.device) -> Iterator[Callable[[], bool]]:
    """Draw from seed 0 inside the context; the value says, inside, whether anything was drawn.

    Random numbers of NumPy and Python are seeded too, and are put back by `kept`.
    """
    with torch.random.fork_rng(devices_of(device)):
        torch.default_generator.manual_seed(0)
        for gpu in devices_of(device):
            torch.cuda.default_generators[gpu.index].manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        before = _states(device)
        yield lambda: not all(map(torch.equal, before, _states(device)))


def _states(device: torch.device) -> list[torch.Tensor]:
    gpu = [torch.cuda.get_rng_state(one) for one in devices_of(device)]
    return [torch.get_rng_state(), *gpu]
