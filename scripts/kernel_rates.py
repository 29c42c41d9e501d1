"""What four cards do in a clock, and what bounds a kernel on them by its instructions.

Rates: results for each clock and multiprocessor, for which 'Throughput of Native Arithmetic
Instructions' in NVIDIA's CUDA C++ Programming Guide (from 13.1 on in the Best Practices Guide) is
the source; they are not yet compared with that table, nor cards with data sheets. Of half types an
instruction has two results. A conversion to or from float64 and float64 arithmetic are taken to
wait for each other. Cards: multiprocessors, boost clock and memory bandwidth.
"""

from typing import NamedTuple

from kernel_counts import Counts


class Card(NamedTuple):
    name: str
    multiprocessors: int
    gigahertz: float
    gigabytes_a_second: float
    float64: int  # results for each clock and multiprocessor
    conversions: int
    float32: int
    half: int

    def memory(self, size: float) -> float:
        """Return the clocks in which a multiprocessor's share of memory moves so many bytes."""
        return size * self.multiprocessors * self.gigahertz / self.gigabytes_a_second


CARDS = {
    "sm_80": Card("A100 80 GB", 108, 1.41, 2039, float64=32, conversions=16, float32=64, half=128),
    "sm_86": Card("RTX 3090", 82, 1.695, 936, float64=2, conversions=2, float32=128, half=64),
    "sm_90": Card("H100 SXM", 132, 1.98, 3350, float64=64, conversions=16, float32=128, half=128),
    "sm_120": Card("RTX 5090", 170, 2.407, 1792, float64=2, conversions=2, float32=128, half=64),
}
# The same on all four. A clock starts four instructions of 32 threads; the caches of a
# multiprocessor give its threads 128 bytes.
ISSUE, INT, CONVERT, SPECIAL, WIDE = 128, 64, 16, 16, 128


def clocks(card: Card, counts: Counts) -> dict[str, float]:
    """Return for how many clocks an entry keeps each unit of a multiprocessor busy."""
    units = counts.units
    return {
        "issue": counts.all / ISSUE,
        "float64": units["fp64"] / card.float64 + units["convert64"] / card.conversions,
        "float32": units["fp32"] / card.float32,
        "half": units["half"] / card.half,
        "integer": units["int"] / INT,
        "product": units["multiply"] / INT,
        "conversion": units["convert"] / CONVERT,
        "function": units["special"] / SPECIAL,
        "cache": counts.wide / WIDE,
    }


def bound(card: Card, counts: Counts) -> tuple[str, float]:
    """Return the busiest unit beside memory, and its time as a multiple of memory's."""
    busy = clocks(card, counts)
    name = max(busy, key=busy.__getitem__)
    return name, busy[name] / card.memory(counts.bytes)
