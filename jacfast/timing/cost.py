"""What a step takes, measured roughly before it is timed; and which steps take too much."""

import dataclasses
import functools
from collections.abc import Callable

from jacfast.penalties.frobenius import Frobenius
from jacfast.timing.contenders import Contender
from jacfast.timing.kept import clear
from jacfast.timing.memory import free_bytes, peak_bytes
from jacfast.timing.ours import one_line
from jacfast.timing.task import Task
from jacfast.timing.turns import seconds_of

PATIENCE = 10.0, 3.0  # seconds to time at least; a step may take one in so many of them


@dataclasses.dataclass
class Unit:
    """A plain step and one with one projection by autograd: seconds and bytes of each."""

    plain: tuple[float, int]
    one: tuple[float, int]

    @classmethod
    def of(cls, task: Task, plain: Contender) -> "Unit":
        """Measure them."""
        step = one_line(Frobenius(), batch_norm=task.options["batch_norm"])

        def one() -> None:
            step(task.called, task.x, task.y, task.lam)

        found = []
        for run in (plain.run, one):
            try:
                peak = peak_bytes(functools.partial(steps, task, run), task.x.device)
                found.append((seconds_of(functools.partial(steps, task, run)), peak))
            except Exception:
                if run is plain.run:
                    raise
                found.append(found[0])  # its own row says why
        return cls(*found)

    def of_passes(self, passes: int) -> tuple[float, int]:
        """Return the seconds and bytes that so many projections in one graph are likely to take."""
        both = zip(self.plain, self.one, strict=True)
        seconds, peak = (plain + passes * max(0, one - plain) for plain, one in both)
        return seconds, int(peak)


def steps(task: Task, run: Callable[[], None], count: int = 1) -> None:
    """Run a step so often, with ``zero_grad`` after each."""
    for _ in range(count):
        run()
        clear(task.parameters)


def too_much(task: Task, one: Contender, unit: Unit, seconds: float) -> str | None:
    """Say why a step of many backward passes is not run; None if it can be."""
    if one.passes <= 1:
        return None
    spent, peak = unit.of_passes(one.passes)
    free, most = free_bytes(task.x.device), max(seconds, PATIENCE[0]) / PATIENCE[1]
    words = f"left out: {one.passes:,} backward passes, "
    if spent > most:
        return words + f"about {spent:.0f} s a step"
    if free is not None and 2 * peak > free:
        return words + f"about {peak / 1e9:.0f} GB to keep or to check"
    return None
