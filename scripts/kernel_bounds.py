"""What bounds each kernel on four cards, as a table, and why it is not memory where it is not."""

import re
import sys

from kernel_counts import Counts, counted
from kernel_rates import CARDS, bound

COUNTED = "sm_86"  # whose code the counts of the table are of

# Kernels that something else than memory bounds, and why that stays.
REASONS = {
    r".*\bdouble": "Kernels in float64: networks are checked in it and not trained, and two of the "
    "cards have next to none of it.",
    r"deepfool_step_.*<(half|bfloat16), 1>": "`deepfool_step` in half types, for rows whose "
    "distance 16 bytes do not divide: entry by entry, sums are in float64, of which two of the "
    "cards have next to none; of single squares, what float32 rounds off would be more work.",
    r"max_pool_(choose|gather|scatter_cells)(?!.*double)": "`max_pool`: a thread has one window, "
    "and finds out where it lies, whatever the type; in half types that takes longer than memory, "
    "in float32 about as long.",
    r"max_pool_scatter_entries(?!.*double)": "`max_pool_scatter_entries`, for windows that "
    "overlap: counted is an entry that seven of them cover, where those of 3 x 3 in steps of two "
    "cover two on average.",
    r"halfspace_projection(?!.*double)": "`halfspace_projection`: it sweeps over its rows, in the "
    "caches, as often as the numbers ask for, with sums of products in float64; how often, no "
    "count of instructions tells.",
    r"orthonormal_cotangents(?!.*double)": "`orthonormal_cotangents`: its rows lie in shared "
    "memory, and it waits at the barriers of its sums; ten numbers for each sample and cotangent "
    "are no work.",
}

HEAD = """## Instructions

Predicted from the machine code, not measured: what an entry costs in a kernel's main loops, from
the code for {counted}, and what bounds the kernel by it. What an entry is, `kernel_plans.py` in
`scripts/` says; of several sweeps over a row all are counted, and of a branch the longer way.
Float64: arithmetic; conversions: to or from it. Divisions: calls of the compiler's helpers. Trips:
of each sweep, the entries of a turn of the loop, and its accesses to memory with their bytes.

On each architecture: the time of the busiest unit of a multiprocessor, as a share of the time that
memory takes at its full bandwidth. Above 1 it is the unit that bounds. What a thread does once is
not counted: of short rows, sums over the team weigh as much as the loop.

Rates, for each clock and multiprocessor: what 'Throughput of Native Arithmetic Instructions', CUDA
C++ Programming Guide, is for, but not yet compared with that table entry by entry; nor are the
cards' clocks and bandwidths with their data sheets. An RTX 4090 (sm_89) has the rates of sm_86,
and half its bandwidth for each clock and multiprocessor: its shares are about half of those.

"""


def page(code: dict[str, dict[str, str]]) -> list[str]:
    """Return the lines of the section; exit if a reason is missing, or not needed."""
    found = {
        kernel: {arch: counted(kernel, listings[kernel]) for arch, listings in code.items()}
        for kernel in sorted(code[COUNTED])
    }
    bounds = {kernel: bounds_of(by_arch) for kernel, by_arch in found.items()}
    check(bounds, REASONS)
    text = HEAD.format(counted=COUNTED).splitlines()
    fields = next(iter(CARDS.values()))._fields[1:]
    cards = [[f"{card.name} ({arch})", *map(str, card[1:])] for arch, card in CARDS.items()]
    text += [*table([["card", *(field.replace("_", " ") for field in fields)], *cards]), ""]
    lines = [["kernel", "instructions", "float64", "conversions", "divisions", "trips", *CARDS]]
    lines += [row(kernel, by_arch[COUNTED], bounds[kernel]) for kernel, by_arch in found.items()]
    return [*text, *table(lines), "", *(f"- {why}" for why in REASONS.values())]


def bounds_of(by_arch: dict[str, Counts]) -> dict[str, tuple[str, float]]:
    """Return the busiest unit and its share for each card; none of a kernel without a loop."""
    return {arch: bound(CARDS[arch], counts) for arch, counts in by_arch.items() if counts.trips}


def table(cells: list[list[str]]) -> list[str]:
    """Return the lines of a table whose first row is its head."""
    head, *body = (f"| {' | '.join(line)} |" for line in cells)
    return [head, f"|---|{'---:|' * (len(cells[0]) - 1)}", *body]


def row(kernel: str, counts: Counts, bounds: dict[str, tuple[str, float]]) -> list[str]:
    """Return the cells of one kernel."""
    units = counts.units
    numbers = [counts.all, units["fp64"], units["convert64"], counts.divisions]
    cells = [f"`{kernel}`", *(f"{n:.1f}".removesuffix(".0") for n in numbers)]
    cells.append("; ".join(counts.trips) or "none")
    for arch in CARDS:
        name, share = bounds.get(arch, ("", 0.0))
        cells.append(f"{share:.2f}{f' {name}' if share > 1 else ''}" if name else "none")
    return cells


def check(bounds: dict[str, dict[str, tuple[str, float]]], reasons: dict[str, str]) -> None:
    """Exit where a kernel is not bound by memory and no reason says why, or a reason is unused."""
    slow = {k for k, of in bounds.items() if not of or any(share > 1 for _, share in of.values())}
    said = {k: {kernel for kernel in slow if re.match(k, kernel)} for k in reasons}
    silent, unused = (
        slow - set().union(*said.values()),
        [k for k, kernels in said.items() if not kernels],
    )
    if silent or unused:
        sys.exit(
            f"not bound by memory: {sorted(silent)}; no such kernel: {unused}; "
            "REASONS in scripts/kernel_bounds.py says why a kernel may be"
        )
