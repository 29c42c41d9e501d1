"""How many instructions of which kind a kernel's main loops have for an entry.

What an entry is, kernel_plans.py says. A kernel that sweeps over its entries several times has a
main loop for each sweep: of the loops with loads as wide as a pack, one of each kind, and of the
versions that the compiler unrolled, the longest. What a thread does once, outside of the loops, is
not counted: sums over a team, the division that finds a row.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from kernel_plans import APART, NONE, PLANS, WHOLE, Plan
from kernel_sass import Block, Instruction, blocks, loops, path

SIZES = {"double": 8, "float": 4, "half": 2, "bfloat16": 2}


# What a unit of a multiprocessor does, by the opcode; whatever else there is goes to "int".
UNITS = {
    "fp64": "DADD DMUL DFMA DSETP DMNMX",
    "fp32": "FADD FMUL FFMA FADD2 FMUL2 FFMA2",
    "half": "HADD2 HMUL2 HFMA2 HSETP2 HMNMX2 HSET2",
    "multiply": "IMAD IMUL",
    "convert": "F2F F2I I2F FRND I2FP F2FP F2IP",
    "special": "MUFU POPC FLO BREV",
    "memory": "LDG STG LDS STS LDL STL LD ST RED ATOM ATOMG ATOMS SHFL",
    "control": "BRA EXIT CALL RET BSSY BSYNC WARPSYNC BAR NOP",
}
UNIT_OF = {opcode: unit for unit, opcodes in UNITS.items() for opcode in opcodes.split()}


class Counts(NamedTuple):
    """Of one entry, all sweeps together; `trips` says of each sweep what a trip does."""

    units: Counter[str]
    wide: float  # bytes that loads and stores have, each at least four
    bytes: float  # that memory has to move
    divisions: int  # calls of a helper that divides, on whatever path
    trips: list[str]

    @property
    def all(self) -> float:
        return sum(self.units.values())


def unit(instruction: Instruction) -> str:
    """Return the unit that an instruction keeps busy."""
    opcode = instruction.opcode
    if UNIT_OF.get(opcode) == "convert" and "64" in instruction.name:
        return "convert64"
    of_all_threads = opcode.startswith("U") or opcode in ("R2UR", "LDC", "LDCU", "S2UR")
    return "control" if of_all_threads else UNIT_OF.get(opcode, "int")


def counted(kernel: str, listing: str) -> Counts:
    """Count the instructions of one kernel."""
    plan = next((plan for begin, plan in PLANS.items() if re.match(begin, kernel)), None)
    if plan is None:
        sys.exit(f"{kernel}: PLANS in scripts/kernel_plans.py does not say what its entry is")
    names = re.split(r"[<, >]+", kernel)
    size = next(SIZES[name] for name in names if name in SIZES) if plan.values else 8
    named = int(names[-2]) if names[-2].isdigit() else 16 // size
    width = size * (plan.pack or named) if plan.values else 8
    all_blocks, helpers = blocks(listing)
    total = Counts(Counter(), 0, plan.values * size + plan.bytes, 0, [])
    for (begin, end), entries in _main_loops(kernel, plan, all_blocks, size, width):
        static = [i for block in all_blocks[begin : end + 1] for i in block.code]
        divisions = sum(i.helper and "div_" in i.target for i in static)
        total = _add(total, path(all_blocks, begin, end), entries, helpers, divisions)
    return total


def _main_loops(
    kernel: str, plan: Plan, all_blocks: list[Block], size: int, width: int
) -> Iterator[tuple[tuple[int, int], float]]:
    """Yield first and last block of each sweep's main loop, and how many entries a trip has."""
    if plan.reads == WHOLE:
        yield (0, len(all_blocks) - 1), width // size if "activation" in kernel else 1
    if plan.reads in (WHOLE, NONE):
        return
    found: dict[tuple[float, float, bool], tuple[int, tuple[int, int]]] = {}
    for loop in loops(all_blocks):
        code = path(all_blocks, *loop)
        reads = sum(i.opcode == "LDG" and i.width == width for i in code)
        if not reads:
            continue
        float64 = sum(unit(i) == "fp64" for i in code)
        float32 = sum(unit(i) == "fp32" for i in code) if plan.float32 else 0
        kind = (float64 / reads, float32 / reads, any(i.opcode == "STG" for i in code))
        if kind not in found or found[kind][0] < reads:
            found[kind] = (reads, loop)
    if len(found) != len(plan.reads):
        sys.exit(f"{kernel}: {len(found)} kinds of loops; PLANS says {len(plan.reads)} sweeps")
    for each, (reads, loop) in zip(plan.reads, found.values(), strict=True):
        if each == APART:
            continue
        if reads % each:
            sys.exit(
                f"{kernel}: {reads} loads in a loop whose entries have {each} each, as PLANS says"
            )
        yield loop, reads // each * (width // size)


def _add(
    total: Counts,
    code: list[Instruction],
    entries: float,
    helpers: dict[str, int],
    divisions: int,
) -> Counts:
    units, wide = Counter(total.units), total.wide
    accesses: Counter[str] = Counter()
    for i in code:
        units[unit(i)] += 1 / entries
        units["int"] += helpers.get(i.target, 0) / entries if i.helper else 0
        if unit(i) == "memory":
            wide += max(4, i.width) / entries
            accesses[f"{i.opcode} {i.width}"] += 1
    trip = f"{entries:g}: " + ", ".join(f"{n} {name}" for name, n in sorted(accesses.items()))
    return Counts(units, wide, total.bytes, total.divisions + divisions, [*total.trips, trip])
