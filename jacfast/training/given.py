"""What `fit` is given: tensors or a DataLoader, a step size or an optimizer and its scheduler."""

import dataclasses
import inspect
import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from jacfast.calling import device_of
from jacfast.checks import at_least, count, one_of
from jacfast.data.batches import split_batch
from jacfast.runs import checksum
from jacfast.training.checkpoint import Config

PROBED = 64  # inputs, over all of x, at which a resumed model must do as it did
SHARES = ("num_replicas", "num_processes")  # PyTorch's word for it, and Accelerate's
Interval = Literal["epoch", "step"]


@dataclasses.dataclass
class Tensors:
    """Shuffled batches of x and y."""

    x: Tensor
    y: Tensor
    batch_size: int
    order: torch.Generator
    generators: tuple[torch.Generator, ...] = ()

    @property
    def steps(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    @property
    def probe(self) -> Tensor:
        return self.x[:: -(-len(self.x) // PROBED)]

    def data(self) -> str | None:
        """Return what tells these inputs from others."""
        return checksum([("x", self.x)])

    def about(self) -> Config:
        y = checksum([("y", self.y)])
        return {"batch_size": self.batch_size, "len(x)": len(self.x), "y": y}

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=self.order, device=self.order.device)
        for batch in order.split(self.batch_size):
            yield self.x[batch], self.y[batch]


@dataclasses.dataclass
class Loader:
    """The batches of an iterable, in its own order."""

    batches: Iterable[Any]
    device: torch.device
    order: torch.Generator
    probe: None = None

    @property
    def steps(self) -> int | None:
        try:
            return len(self.batches)  # type: ignore[arg-type]
        except TypeError:  # an iterable of unknown length
            return None

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        """Those of the loader and of the samplers in it."""
        found = [getattr(owner, "generator", None) for owner in _owners(self.batches)]
        own = {id(each): each for each in found if isinstance(each, torch.Generator)}
        return tuple(own.values())

    def data(self) -> str | None:
        """Return nothing: who knows what it will yield?"""
        return None

    def about(self) -> Config:
        own = [generator.device.type for generator in self.generators]
        return {"steps": self.steps, "generators of x": ", ".join(own)}

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        number = -1
        for number, batch in enumerate(self.batches):
            x, y = split_batch(batch, number, labels=True)
            assert y is not None  # split_batch has seen to it
            yield x.to(self.device), y.to(self.device)
        if number < 0:
            raise ValueError("x must yield a batch in every epoch (a generator ends); got none")


def _owners(batches: Any) -> list[Any]:
    """Return a loader and the samplers in it: one may hold another one."""
    owners = [batches]
    for owner in owners:
        inner = (getattr(owner, name, None) for name in ("sampler", "batch_sampler"))
        owners += [
            one for one in inner if one is not None and all(one is not known for known in owners)
        ]
    return owners


def batches_of(
    model: nn.Module, x: Any, y: Tensor | None, batch_size: int | None, seed: int, saved: bool
) -> Tensors | Loader:
    """Return what an epoch goes through; raise TypeError or ValueError in words.

    Args:
        saved: whether the run is one to go on with.
    """
    order = torch.Generator().manual_seed(seed)
    if not isinstance(x, Tensor):
        for name, value in (("y", y), ("batch_size", batch_size)):
            if value is not None:
                raise ValueError(f"{name} must be left out where x is a DataLoader; got {value}")
        if not isinstance(x, Iterable):
            raise TypeError(f"x must be a tensor or yield batches; got {type(x).__name__}")
        if any(getattr(one, name, 1) > 1 for one in _owners(x)[1:] for name in SHARES):
            raise ValueError(
                "x must yield whole batches, of which each process takes its part; got a "
                "DataLoader with a sampler that shares out by itself (DistributedSampler)"
            )
        if saved and getattr(x, "persistent_workers", False):
            raise ValueError(
                "x must have persistent_workers=False beside save: its workers draw on from epoch "
                "to epoch, and no checkpoint holds from where; got True"
            )
        return Loader(x, device_of(model), order)
    if batch_size is None:
        raise TypeError("batch_size must be an integer where x is a tensor; got None")
    count("batch_size", batch_size)
    if y is None or len(x) == 0 or len(x) != len(y):
        got = "no y" if y is None else f"{len(x)} and {len(y)}"
        raise ValueError(f"x and y must be as long, and not empty; got {got}")
    return Tensors(x, y, int(batch_size), order)  # an integer of NumPy, too


def optimizer_of(
    model: nn.Module,
    lr: float | None,
    optimizer: torch.optim.Optimizer | None,
    scheduler: LRScheduler | None,
    interval: str,
) -> torch.optim.Optimizer:
    """Return the optimizer that is given, or Adam; raise TypeError or ValueError in words."""
    one_of("scheduler_interval", interval, get_args(Interval))
    if scheduler is not None:
        if optimizer is None or getattr(scheduler, "optimizer", None) is not optimizer:
            raise ValueError(
                "scheduler must be of the optimizer that is given; got another, or none"
            )
        _check_stepped(scheduler, interval)
    if optimizer is None:
        if lr is None:
            raise TypeError("lr must be a number where no optimizer is given; got None")
        at_least("lr", lr, 0)
        return torch.optim.Adam(model.parameters(), lr=float(lr))
    if lr is not None:
        raise ValueError(f"lr must be left out beside an optimizer, which has its own; got {lr}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch Optimizer; got {type(optimizer).__name__}")
    return optimizer


def _check_stepped(scheduler: LRScheduler, interval: str) -> None:
    """Check that a scheduler can be stepped as it will be."""
    plateau = isinstance(scheduler, ReduceLROnPlateau) and interval == "epoch"
    try:
        inspect.signature(scheduler.step).bind(*[0.0] * plateau)
    except TypeError as error:
        raise ValueError(
            "scheduler must have a step() without arguments, or be a ReduceLROnPlateau with "
            "scheduler_interval='epoch', which sees the mean loss of an epoch; got a "
            f"{type(scheduler).__name__} with {interval!r}: {error}"
        ) from error


def check_total_steps(
    scheduler: LRScheduler | None, interval: str, epochs: int, steps: int | None
) -> None:
    """Check that a OneCycleLR, which raises behind its last step, does not end before the run."""
    most = scheduler.total_steps if isinstance(scheduler, OneCycleLR) else math.inf
    needed = epochs if interval == "epoch" else epochs * (steps or 0)
    if needed > most:
        raise ValueError(f"scheduler must have total_steps >= {needed}, as the run has; got {most}")
