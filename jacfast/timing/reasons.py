"""Which step is best, and why the others are not: from the measured figures alone."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jacfast.timing.result import Result, Row

QUIET = 0.2  # the largest spread of a quiet machine
MUCH = 1.2  # a factor of memory worth a word


def noise(rows: list["Row"]) -> str:
    """Say how far times lie apart, and whether that is too far."""
    spreads = [row.spread for row in rows if row.spread is not None]
    if not spreads:
        return ""
    middle = sorted(spreads)[len(spreads) // 2]
    words = f"spread, the middle half of the times of a step: {100 * middle:.0f}% of its median"
    words += f" (at most {100 * max(spreads):.0f}%)"
    loud = max(middle, rows[0].spread or 0.0) > QUIET
    return words + ("; the machine is not quiet: measure again" if loud else "")


def best_line(result: "Result") -> str:
    """Name the best of those that compute what was asked for."""
    best = result.best
    if best is None or best.seconds is None:
        return ""
    words = f"best for {best.group.removeprefix('R = ')}: {best.name}"
    words += f", {best.plain_steps:.2f} plain steps" if best.plain_steps else ""
    return words + _repaid(best, [row for row in result.rows if row.main and not row.compiles])


def reasons(result: "Result") -> list[str]:
    """Return a line for each of the others: how much slower, what it takes, or why it is out."""
    best = result.best
    if best is None:
        return []
    lines = []
    for row in result.rows[1:]:
        if row is best or row.why or row.spread is None:
            continue
        if row.main:
            lines.append(f"  {row.name}: {_against(row, best)}")
        elif row.passes > 1:
            lines.append(
                f"  {row.name}, exact: {row.passes} backward passes, {_against(row, best)}"
            )
    return lines


def _against(row: "Row", best: "Row") -> str:
    """Compare a row with the best one."""
    ratio = (row.seconds or math.nan) / (best.seconds or math.nan)
    spread = max(row.spread or 0.0, best.spread or 0.0)
    level = row.main and ratio - 1 <= spread
    words = [f"{ratio:.2f} times as long" + (", level within the spread" if level else "")]
    if row.peak_bytes and best.peak_bytes:
        memory = row.peak_bytes / best.peak_bytes
        if memory >= MUCH:
            words.append(f"{memory:.1f} times the memory")
        elif memory <= 1 / MUCH:
            words.append(f"but {memory:.2f} of the memory")
    if row.made and row.made >= 0.1:
        words.append(f"{row.made:.1f} s to make")
    return ", ".join(words)


def _repaid(best: "Row", others: list["Row"]) -> str:
    """Say after how many steps what the best has cost at first is repaid."""
    if not best.made or best.made < 0.1 or best.seconds is None:
        return ""
    timed = [row for row in others if row.spread is not None]
    timed = [row for row in timed if row.seconds and row.seconds > best.seconds]
    if not timed:
        return f", after {best.made:.1f} s to make it"
    next_best = min(timed, key=lambda row: row.seconds or math.inf)
    gain = (next_best.seconds or math.inf) - best.seconds
    words = (
        f"; its {best.made:.1f} s to make are repaid after {math.ceil(best.made / gain):,} steps"
    )
    return f"{words} (against {next_best.name})"
