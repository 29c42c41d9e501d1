"""The time of one penalised training step, against the same step as people write it today."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from jacfast.calling import in_eval_mode
from jacfast.penalties import Frobenius
from jacfast.penalties.checks import Count
from jacfast.timing.contenders import PLAIN, RIVALS, contenders
from jacfast.timing.cost import steps
from jacfast.timing.kept import kept
from jacfast.timing.measure import in_words
from jacfast.timing.task import Task, prepare
from jacfast.timing.turns import take_turns
from jacfast.timing.verify import HALF, TOLERANCE, error, gradient

LAM = 0.1


def time_steps(
    model: nn.Module, x: Tensor, y: Tensor, n: Count, repeats: int = 5
) -> dict[str, Any]:
    """Time forward, backward and penalty of one batch, in eval mode; the model is left as it was.

    Returns:
        ``images``, N, and median seconds by name: ``plain`` (cross-entropy alone), ``jacfast``
        (with `forward_with_penalty`, n projections) and ``loop`` (over the classes, exact), taken
        in turns in one run; ``speedup``, loop over jacfast. Or, beside ``images``, ``why`` there is
        no time, in words: the exact steps disagree, say, or memory lacks.
    """
    try:
        with kept(model, x.device, Frobenius(n)), in_eval_mode(model.modules()):
            _verify(_task(model, x[:32], y[:32], "exact"))
            task = _task(model, x, y, n)
            runs = {name: functools.partial(steps, task, run) for name, run in _runs(task).items()}
            medians = {name: one["median"] for name, one in take_turns(runs, repeats).items()}
    except Exception as problem:  # whatever it is, figures that took hours are not lost for it
        return {"images": len(x), "why": in_words(problem)}
    return {**medians, "speedup": medians["loop"] / medians["jacfast"], "images": len(x)}


def _task(model: nn.Module, x: Tensor, y: Tensor, n: Count) -> Task:
    return prepare(model, x, y, Frobenius(n), LAM, (), None, None)


def _runs(task: Task) -> dict[str, Callable[[], None]]:
    """Return the steps by name; of ours the first, which is run as it is."""
    found = contenders(task, ("loop",), None)
    names = {"plain": PLAIN, "jacfast": "jacfast", "loop": RIVALS["loop"]}
    return {
        key: next(one.run for one in found if one.name.startswith(name))
        for key, name in names.items()
    }


def _verify(task: Task) -> None:
    """Check that the two exact steps have one gradient: else their times would mean nothing."""
    runs = _runs(task)
    apart = error(gradient(task, runs["jacfast"]), gradient(task, runs["loop"]))
    if not apart <= TOLERANCE.get(task.x.dtype, HALF):
        raise RuntimeError(f"the penalised steps must agree; their gradients are {apart:.1e} apart")
