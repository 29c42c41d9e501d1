"""Time callables against each other in one run: they take turns; medians and spread."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Contenders = Mapping[str, Callable[[], object]]


class Turns:
    """Contenders that take turns, so that drift of the machine hits all alike.

    Args:
        contenders: by name, what to call.
        kernels: on a GPU, time what the device does between two events, with the host far enough
            ahead that launches cost nothing; else what passes until the device is done.
    """

    def __init__(self, contenders: Contenders, kernels: bool = False) -> None:
        self.contenders = dict(contenders)
        self.times: dict[str, list[float]] = {name: [] for name in contenders}
        self._seconds = _device_seconds if kernels and torch.cuda.is_available() else seconds_of

    def turn(self, name: str) -> None:
        """Time one contender once."""
        self.times[name].append(self._seconds(self.contenders[name]))

    def round(self) -> None:
        """Time each contender once."""
        for name in self.contenders:
            self.turn(name)

    def figures(self) -> dict[str, dict[str, float]]:
        """Return median, fastest, slowest and spread by name, of those that had a turn."""
        return {name: _figures(times) for name, times in self.times.items() if times}


def take_turns(
    contenders: Contenders, repeats: int, kernels: bool = False, warm: bool = True
) -> dict[str, dict[str, float]]:
    """Time every contender `repeats` times, in turns; see `Turns`.

    Args:
        warm: run one round more before the first, which is not counted.

    Returns:
        By name: median, fastest and slowest seconds; the spread, by `Turns`.
    """
    if warm:
        Turns(contenders, kernels).round()
    turns = Turns(contenders, kernels)
    for _ in range(repeats):
        turns.round()
    return turns.figures()


def seconds_of(run: Callable[[], object]) -> float:
    """Return the seconds until a call is done, on the device too."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _figures(times: list[float]) -> dict[str, float]:
    """Return the figures of one contender; spread: the middle half of its times, in medians."""
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4, method="inclusive") if times[1:] else [0.0] * 3
    figures = {"median": median, "fastest": min(times), "slowest": max(times)}
    return figures | {"spread": (high - low) / median}


def _device_seconds(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(5_000_000)  # some milliseconds, in which the host queues everything
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
