"""A model is looked at, and is afterwards what it was."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from jacfast.calling import State
from jacfast.calling.seeds import devices_of
from jacfast.step.traced import fresh


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
