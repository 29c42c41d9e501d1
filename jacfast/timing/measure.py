"""Check each contender, then time all in turns; what is found goes into a `Result` as it comes."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from jacfast.calling import State
from jacfast.memory import ran_out
from jacfast.penalties.squares import Frobenius
from jacfast.progress import watch
from jacfast.step.traced import say_again
from jacfast.timing.contenders import Contender
from jacfast.timing.kept import clear
from jacfast.timing.memory import free_bytes, peak_bytes
from jacfast.timing.ours import one_line
from jacfast.timing.result import Result, Row
from jacfast.timing.task import Task
from jacfast.timing.turns import Turns, seconds_of
from jacfast.timing.verify import Oracle, Unchecked, error, gradient, without_draws

TURN = 0.05  # seconds of a turn, at least
ROUNDS = 3, 100  # at least, at most
PATIENCE = 10.0, 3.0  # seconds to time at least; a step may take one in so many of them
# How warnings begin that a step is not run in the way that was asked for.
OTHERWISE = ("forward_with_penalty runs eager", "Inductor could not compile")


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


def measure(result: Result, task: Task, found: list[Contender], seconds: float) -> None:
    """Fill the rows of a result, one for each contender."""
    names = [field.name for field in dataclasses.fields(Row)]
    rows = [Row(**{k: v for k, v in vars(one).items() if k in names}) for one in found]
    result.rows += rows
    start, unit = State(task.model), Unit.of(task, found[0])
    start.undo()
    oracle, truths = Oracle(task, unit.one[1]), dict[str, Any]()
    with without_draws(task) as words:
        result.check = f"gradients of CE + {task.lam:g} R against plain autograd in {oracle.words}"
        result.check += f", the same draws{', ' if words else ''}{words}"
    once: dict[int, float] = {}
    last = sorted(range(len(found)), key=lambda i: found[i].compiles)  # which may take minutes
    for i in watch(last, desc="checking", leave=False):
        rows[i].why = too_much(task, found[i], unit, seconds)
        if rows[i].why is None:
            once[i] = _checked(task, found[i], rows[i], oracle, truths)
            rows[i].seconds = None if rows[i].why else once[i]  # until it has its turns
            _in_plain_steps(rows)
    _timed(result, task, found, rows, once, seconds)


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


def _checked(task: Task, one: Contender, row: Row, oracle: Oracle, truths: dict[str, Any]) -> float:
    """Run a contender for the first times: check it, and see what it takes; return its seconds."""
    run, first = functools.partial(steps, task, one.run), 0.0
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            say_again(task.model)
            if one.penalty is not None:
                with without_draws(task):
                    kept: list[Tensor] = []
                    oracle.own.state.undo()
                    first = seconds_of(lambda: kept.append(gradient(task, one.run)))
                    if one.group not in truths:
                        truths[one.group] = oracle.gradient(one.penalty)
                    truth, allowed = truths[one.group]
                    row.error = error(kept[0], truth)
            first = max(first, seconds_of(run))
            row.peak_bytes = peak_bytes(run, task.x.device)
            once = seconds_of(run)
        row.made = max(0.0, first - once) if one.compiles else None
        row.why = _otherwise(caught)
        if row.why is None and row.error is not None and not row.error <= allowed:
            row.why = (
                f"disagrees: its gradient is {row.error:.1e} off that of plain autograd, of which "
                f"roundings explain {allowed:.0e}; not timed"
            )
    except Exception as problem:
        if not one.group:
            raise
        row.why, once = _in_words(problem), math.nan
    return once


def _otherwise(caught: list[warnings.WarningMessage]) -> str | None:
    said = [str(one.message) for one in caught]
    found = next((words for words in said if words.startswith(OTHERWISE)), None)
    return None if found is None else f"left out: {compiler_words(found)}"


def _in_words(problem: Exception) -> str:
    if isinstance(problem, Unchecked):
        return f"cannot be checked, and is not timed: {problem}"[:300]
    if ran_out(problem):
        return "left out: out of memory"
    lines = f"{type(problem).__name__}: {problem}".splitlines()
    return f"does not run here: {compiler_words(lines[0])}"[:300]


def compiler_words(words: str) -> str:
    """Say it plainly where what lacks is the compiler of Inductor."""
    lacks = "InvalidCxxCompiler" in words or "No working C++ compiler" in words
    return "there is no C++ compiler for Inductor (g++, or CXX)" if lacks else words


def _timed(
    result: Result,
    task: Task,
    found: list[Contender],
    rows: list[Row],
    once: dict[int, float],
    seconds: float,
) -> None:
    alive = {str(i): found[i] for i, spent in once.items() if rows[i].why is None}
    least = 5 if task.x.is_cuda else 1
    counts = {key: max(least, math.ceil(TURN / max(once[int(key)], 1e-9))) for key in alive}
    turns = Turns(
        {key: functools.partial(steps, task, alive[key].run, counts[key]) for key in alive}
    )
    each = sum(once[int(key)] * counts[key] for key in alive)
    rounds = min(max(ROUNDS[0], int(seconds / each)), ROUNDS[1])
    with watch(total=rounds * len(alive), desc="timing", leave=False) as bar:
        for _ in range(rounds):
            for key in list(turns.contenders):
                try:
                    turns.turn(key)
                except Exception as problem:
                    del turns.contenders[key], turns.times[key]
                    rows[int(key)].why = _in_words(problem)
                bar.update()
                _fill(rows, turns, counts)
            result.rounds += 1


def _fill(rows: list[Row], turns: Turns, counts: dict[str, int]) -> None:
    """Write the figures so far."""
    for key, figures in turns.figures().items():
        row = rows[int(key)]
        row.seconds, row.spread = figures["median"] / counts[key], figures["spread"]
    _in_plain_steps(rows)


def _in_plain_steps(rows: list[Row]) -> None:
    base = rows[0].seconds
    for row in rows:
        if row.why:
            row.seconds = row.spread = row.plain_steps = None
        elif row.seconds and base:
            row.plain_steps = row.seconds / base
