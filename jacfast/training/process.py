"""The processes of one training: alone, or each with its part of every batch."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from jacfast.portion import Portion, within
from jacfast.runs import checksum_of
from jacfast.team import Team
from jacfast.training.checks import check_loss
from jacfast.training.defence import Defence
from jacfast.training.dropout import OfWholeBatch
from jacfast.training.learned import learned
from jacfast.training.seeded import generators_of
from jacfast.training.streams import Streams

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Process:
    """The only process: the loss as it is."""

    rank, size = 0, 1

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = model, loss

    def losses(self, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, float]:
        """Return what to differentiate, and the loss of the batch."""
        value = _value(self.loss, self.model, x, y, step)
        check_loss(value)
        return value, value.item()

    def stepped(self, generators: list[torch.Generator]) -> None:
        """Come to the end of a step."""


class _Whole(nn.Module):
    """The loss as a module, so that DistributedDataParallel sees all that it is made of."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss, self.learned = model, loss, learned(loss)
        # PyTorch looks for unused parameters in each step, and warns of that where it finds none:
        # here it finds one, of no entries
        self.unused = nn.Parameter(next(model.parameters()).new_zeros(0))

    def forward(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """Return the loss; of no samples 0, which depends on nothing that is trained."""
        return _value(self.loss, self.model, x, y, step) if len(x) else self.unused.sum()


def _value(loss: Loss, model: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
    counts = isinstance(loss, Defence) and loss.by_steps
    return loss(model, x, y, step=step) if counts else loss(model, x, y)  # type: ignore[call-arg]


class OneOfMany(Process):
    """One of several: consecutive samples of every batch, which all have."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__(model, loss)
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.streams = Streams(generators_of(model), self.rank)
        # a loss may leave parameters out: an auxiliary head in eval mode
        self.parallel = DistributedDataParallel(_Whole(model, loss), find_unused_parameters=True)

    def losses(self, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, float]:
        """Return what to differentiate, and the loss of the whole batch."""
        index = torch.arange(len(x), device="cpu").tensor_split(self.size)[self.rank]
        part = slice(int(index[0]), int(index[-1]) + 1) if len(index) else slice(0)
        here = Portion(index, len(x), self.streams.alike)
        with within(here), self.streams.apart(step), OfWholeBatch():
            value = self.parallel(x[part], y[part], step)
        check_loss(value)
        value = value * (len(index) * self.size / len(x))  # the gradient is a mean over processes
        mean = value.detach().double() / self.size
        distributed.all_reduce(mean)
        return value, mean.item()

    def stepped(self, generators: list[torch.Generator]) -> None:
        """Go on with the first process's random numbers: the others may have drawn less alike."""
        states = [generator.get_state() for generator in generators]
        device = next(self.model.parameters()).device
        joined = torch.cat(states).to(device)
        distributed.broadcast(joined, 0)
        parts = joined.cpu().split([len(state) for state in states])
        for generator, state in zip(generators, parts, strict=True):
            generator.set_state(state.clone())  # of a part of a tensor PyTorch crashes

    @torch.no_grad()
    def ended(self) -> None:
        """Give all the buffers of the first process, as each step has given them at its start."""
        for buffer in self.parallel.module.buffers():
            flat = buffer.contiguous()
            distributed.broadcast(flat, 0)
            buffer.copy_(flat)

    def leave(self) -> None:
        """Let go of the group: no frame of an error, which somebody may keep, holds it open.

        The others would wait for this process. Nor is it left to the reducer to free it: that holds
        Python's lock while it waits for a thread, which may need the lock to free a tensor.
        """
        parallel = self.parallel
        del self.parallel, parallel.reducer, parallel.logger, parallel.process_group


@contextlib.contextmanager
def processes(
    model: nn.Module, loss: Loss, about: dict[str, Any], data: Callable[[], str | None]
) -> Iterator[Process]:
    """Train `model` with the other processes that torchrun, or one's own group, has.

    Args:
        about, data: what must be the same in all; `data` is called if there are several.

    Raises:
        ValueError: they are not given the same.
    """
    team = Team.here()
    if team.size == 1:
        yield Process(model, loss)
        return
    device = next(model.parameters()).device
    with team.together():
        weights = {"weights": checksum_of(model), "weights of loss": checksum_of(learned(loss))}
        team.agree({**about, "x": data(), **weights})
        with team.group(device), team.together():
            process = OneOfMany(model, loss)
            try:
                yield process
                process.ended()
            finally:
                process.leave()
        team.agree({})  # what the first one writes is there
