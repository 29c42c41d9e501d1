"""Check each contender, then time all in turns; what is found goes into a `Result` as it comes."""

import dataclasses
import functools
import math
import sys
import warnings
from typing import Any

from torch import Tensor

from jacfast.calling import State
from jacfast.memory import ran_out
from jacfast.progress import watch
from jacfast.step.traced import say_again
from jacfast.timing.contenders import Contender
from jacfast.timing.cost import Unit, steps, too_much
from jacfast.timing.memory import peak_bytes
from jacfast.timing.result import Result, Row
from jacfast.timing.task import Task
from jacfast.timing.turns import Turns, seconds_of
from jacfast.timing.verify import Oracle, Unchecked, error, gradient, without_draws

TURN = 0.05  # seconds of a turn, at least
ROUNDS = 3, 100  # at least, at most
# How warnings begin that a step is not run in the way that was asked for.
OTHERWISE = ("forward_with_penalty runs eager", "Inductor could not compile")


def measure(result: Result, task: Task, found: list[Contender], seconds: float) -> None:
    """Fill the rows of a result, one for each contender."""
    names = [field.name for field in dataclasses.fields(Row)]
    rows = [Row(**{k: v for k, v in vars(one).items() if k in names}) for one in found]
    result.rows += rows
    start, unit = State(task.model, copied=sys.maxsize), Unit.of(task, found[0])
    start.undo()
    truths = dict[str, Any]()
    with without_draws(task) as words:
        oracle = Oracle(task, unit.one[1])
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
        row.why, once = in_words(problem), math.nan
    return once


def _otherwise(caught: list[warnings.WarningMessage]) -> str | None:
    said = [str(one.message) for one in caught]
    found = next((words for words in said if words.startswith(OTHERWISE)), None)
    return None if found is None else f"left out: {compiler_words(found)}"


def in_words(problem: Exception) -> str:
    """Say why there is no time."""
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
                    rows[int(key)].why = in_words(problem)
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
