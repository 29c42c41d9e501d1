"""`jacfast.bench`: what a penalised step costs on the user's own model, by each way there is."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from jacfast.calling.functions import compiled
from jacfast.calling.outputs import Output
from jacfast.checks import at_least, number
from jacfast.penalties.base import Penalty
from jacfast.penalties.frobenius import Frobenius
from jacfast.timing.attacks import against_foolbox
from jacfast.timing.contenders import RIVALS, contenders, missing, why_no_share
from jacfast.timing.environment import environment
from jacfast.timing.kept import kept
from jacfast.timing.measure import measure
from jacfast.timing.result import Result
from jacfast.timing.task import Task, check, prepare, shown

Rival = Literal["one-vector", "jacobian-reg", "compiled", "one-line", "loop", "foolbox"]
ALL: tuple[Rival, ...] = get_args(Rival)


def bench(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    penalty: Penalty = Frobenius(),
    *,
    lam: float = 0.1,
    against: Sequence[Rival] = ALL,
    seconds: float = 20.0,
    subsample: float | None = 0.25,
    output: Output = None,
    args: Sequence = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Result:
    """Time the penalised training step of a model by each way there is, and say which is best.

    A step is forward pass, ``CE + lam R`` and backward pass. First every contender's gradient is
    held against plain autograd, on a float64 copy where that fits in memory, with the same draws;
    who disagrees or fails is a row that says so, without a time. Then they take turns, with as many
    steps in a turn as last long enough to measure: the plain step; ``R`` by the rivals and by each
    backend of `forward_with_penalty`; the same on a part of each batch; the exact penalty, where so
    many backward passes are affordable; last DeepFool, against foolbox's.

    The model is timed as it stands, train or eval, and is afterwards what it was, also after an
    exception or an interrupt: parameters, ``.grad``, buffers, flags, random numbers.

    Args:
        model: maps x [N, ...] to logits [N, K], or to a container of them (see `output`), and has
            parameters that require grad.
        x: [N, ...], floating point.
        y: labels [N] int64; default: drawn.
        penalty: R, with its own ``subsample``, ``every`` and ``reduction`` left alone. Rivals of
            `Frobenius` with one projection are left out for another one.
        lam: its weight, > 0.
        against: which rivals: ``"one-vector"``, ``"jacobian-reg"``, ``"compiled"`` (the whole step
            by torch.func), ``"one-line"`` (the penalty as a term of the loss), ``"loop"`` (over the
            classes, exact), ``"foolbox"`` (DeepFool).
        seconds: how long to time, in three turns at least; checking and compiling come before.
        subsample: share of each batch for the rows on a part of it, in (0, 1); None: no such rows.
        output, args, kwargs: as in `forward_with_penalty`.

    Returns:
        The rows, as a table with ``str()``, ``to_dict()`` and ``to_json()``.

    Raises:
        TypeError, ValueError: an argument is not as above, the model cannot be called with it or be
            trained, or its outputs do not depend on x.
    """
    result = Result()
    fill(result, model, x, y, penalty, lam, against, seconds, subsample, output, args, kwargs)
    return result


def fill(
    result: Result,
    model: nn.Module,
    x: Tensor,
    y: Tensor | None,
    penalty: Penalty,
    lam: float = 0.1,
    against: Sequence[str] = ALL,
    seconds: float = 20.0,
    subsample: float | None = 0.25,
    output: Output = None,
    args: Sequence = (),
    kwargs: Mapping[str, Any] | None = None,
    classes: int | None = None,
) -> None:
    """Do what `bench` does, into a result that holds what there is when it is interrupted.

    Args:
        classes: K, if it is to be checked.
    """
    check(model, x, y, penalty, lam)
    _check_options(against, seconds, subsample)
    with kept(model, x.device, penalty):
        task = prepare(model, x, y, penalty, lam, args, kwargs, output)
        if classes not in (None, task.classes):
            raise ValueError(
                f"classes must be the number of the model's outputs, {task.classes}; got {classes}"
            )
        result.about, result.environment = about(task), environment("jacfast", "foolbox")
        found = contenders(task, tuple(against), subsample)
        result.notes += _notes(task, tuple(against), subsample)
        measure(result, task, found, seconds)
        if "foolbox" in against:
            plain = result.rows[0].seconds or 0.0
            result.deepfool = against_foolbox(task, plain, max(seconds, 1.0))


def about(task: Task) -> dict[str, Any]:
    """Return what is timed, in a few words each."""
    training = {module.training for module in task.model.modules()}
    mode = "in train and eval mode" if len(training) > 1 else "training" if True in training else ""
    return {
        "model": type(task.model).__name__,
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "mode": mode or "eval",
        "x": list(task.x.shape),
        "dtype": str(task.x.dtype).removeprefix("torch."),
        "device": str(task.x.device),
        "classes": task.classes,
        "penalty": shown(task.penalty),
        "lam": task.lam,
    }


def _notes(task: Task, against: tuple[str, ...], share: float | None) -> list[str]:
    """Say what is left out, and what is not as one might expect."""
    notes = []
    if out := missing(task, against):
        notes.append(f"left out, they compute another penalty: {', '.join(out)}")
    if share is not None and (why := why_no_share(task)):
        notes.append(f"subsample={share:g} is left out: {why}")
    if task.coupled:
        notes.append(
            "batch-norm uses the statistics of the batch: all differentiate the coupled batch "
            "(batch_norm='coupled'); batch_norm='frozen' is a penalty of each sample, for a "
            "forward pass more"
        )
    if compiled(task.model):
        notes.append("the model is given to torch.compile: rivals call it as it is, compiled")
    return notes


def _check_options(against: Sequence[str], seconds: float, subsample: float | None) -> None:
    names = isinstance(against, Collection) and not isinstance(against, str)
    if not names or not all(name in tuple(RIVALS) for name in against):
        raise ValueError(f"against must hold some of {', '.join(RIVALS)}; got {against!r}")
    at_least("seconds", seconds, 0)
    if subsample is not None and not 0 < number("subsample", subsample) < 1:
        raise ValueError(f"subsample must be in (0, 1), or None; got {subsample}")
