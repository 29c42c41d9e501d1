"""A model and a penalty are looked at, and are afterwards what they were."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from jacfast.calling import State
from jacfast.calling.seeds import devices_of
from jacfast.calling.sources import Sources, of_process
from jacfast.penalties.base import Penalty
from jacfast.penalties.learned import leaves_of
from jacfast.step.traced import fresh


@contextlib.contextmanager
def kept(model: nn.Module, device: torch.device, penalty: Penalty) -> Iterator[None]:
    """Put everything of both back at the end, also after an exception or an interrupt.

    Parameters, their ``.grad``, buffers, attributes and flags of their modules, the random numbers
    of torch, NumPy and Python, and what is known of the model's recorded steps.
    """
    parameters = [*model.parameters(), *leaves_of(penalty)]
    gradients = [p.grad for p in parameters]
    values = [p.detach().clone() for p in parameters]
    state = State(model, beside=penalty)
    others = Sources(of_process())
    try:
        with torch.random.fork_rng(devices_of(device)), fresh(model), torch.enable_grad():
            clear(parameters)
            yield
    finally:
        state.undo()
        others.put()
        with torch.no_grad():
            for p, gradient, value in zip(parameters, gradients, values, strict=True):
                p.grad = gradient
                if not torch.equal(p, value):
                    p.copy_(value)


def clear(parameters: Iterable[Tensor]) -> None:
    """Remove the gradients, as ``zero_grad`` does."""
    for p in parameters:
        p.grad = None
