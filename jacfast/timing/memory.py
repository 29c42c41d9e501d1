"""How much memory a call takes, and how much there is."""

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

LOG_LEVEL = "KINETO_LOG_LEVEL"


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that a second call has allocated at once, beyond what was there."""
    run()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    live = peak = 0
    for event in found.profiler.kineto_results.events():
        live += event.nbytes()  # less than 0 where memory is freed, 0 of what is no allocation
        peak = max(peak, live)
    return peak


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let the profiler write no lines of its own, if it is the first time that it is used."""
    own = os.environ.get(LOG_LEVEL)
    os.environ.setdefault(LOG_LEVEL, "99")
    try:
        yield
    finally:
        if own is None:
            os.environ.pop(LOG_LEVEL, None)


def free_bytes(device: torch.device) -> int | None:
    """Return how many bytes can still be allocated; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            known = dict(line.split(":", 1) for line in file)
        return int(known["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pages = {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= set(getattr(os, "sysconf_names", ()))
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if pages else None
