"""What is timed: a model, a batch, a penalty; and how rivals call the model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast.calling import (
    Arguments,
    as_logits,
    check_classes,
    check_depends,
    check_input,
    check_labels,
    check_made,
    ordinary,
    pick,
    tried,
    with_batch_statistics,
)
from jacfast.calling.outputs import Output
from jacfast.calling.seeds import at_seed
from jacfast.checks import above_zero
from jacfast.memory import ran_out
from jacfast.penalties.base import Penalty, check_penalty
from jacfast.step.checks import check_no_pair, kinds_of
from jacfast.timing.kept import clear


class Logits(nn.Module):
    """A model as rivals call it: from x alone to logits [N, K]."""

    def __init__(self, model: nn.Module, arguments: Arguments, output: Output) -> None:
        super().__init__()
        self.model, self.arguments, self.output = model, arguments, output
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits; x stays as it is, whatever the model does to it."""
        return as_logits(pick(self.arguments.call(self.model, x.clone()), self.output), x)


@dataclasses.dataclass
class Task:
    """A penalised step to time.

    Attributes:
        called: what rivals call, on x alone: the model itself if it returns [N, K] for it, else
            `Logits` around it.
        options: of `forward_with_penalty`, for the same call.
        classes: K.
        draws: whether the model draws random numbers in its mode.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    penalty: Penalty
    lam: float
    arguments: Arguments
    called: nn.Module
    options: dict[str, Any]
    classes: int
    draws: bool

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that are trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def coupled(self) -> bool:
        """Say whether batch-norm couples the samples."""
        return self.options["batch_norm"] == "coupled"


def check(model: nn.Module, x: Tensor, y: Tensor | None, penalty: Penalty, lam: float) -> None:
    """Check what can be checked before the model is called.

    Raises:
        TypeError, ValueError: an argument is not as `jacfast.bench` says.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    check_no_pair(kinds_of(model))
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model must have parameters that require grad: a step trains them; got 0")
    check_made(model.modules())
    if any(getattr(p, "_post_accumulate_grad_hooks", None) for p in model.parameters()):
        raise ValueError(
            "model must have no hooks that run once a gradient is there (an optimiser's, say): "
            "each step that is timed would run them"
        )
    check_input(x)
    if y is not None:
        check_labels(y, len(x))
    check_penalty(penalty)
    for name, usual in (("subsample", 1.0), ("every", 1), ("reduction", "mean")):
        if getattr(penalty, name) != usual:
            raise ValueError(
                f"penalty must have {name}={usual!r}, as the others have; got {shown(penalty)}"
            )
    above_zero("lam", lam)


def prepare(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None,
    penalty: Penalty,
    lam: float,
    args: Sequence,
    kwargs: Mapping[str, Any] | None,
    output: Output,
) -> Task:
    """Call the model, to see what it returns, and choose how to call it; try a plain step."""
    x = ordinary(x).detach().clone()
    arguments = Arguments(args, kwargs, samples=len(x))
    given = x.clone()
    with torch.no_grad(), at_seed(x.device) as drawn:
        try:
            returned = arguments.call(model, given)
        except (Exception, SystemExit) as error:  # whatever the user's module does
            if ran_out(error):
                raise
            raise ValueError(
                f"model must accept x of shape {list(x.shape)}, {x.dtype} on {x.device}; got "
                f"{type(error).__name__}: {error}"
            ) from error
        logits, draws = as_logits(pick(returned, output), x), drawn()
    check_classes(logits)
    if y is None:
        y = torch.randint(logits.shape[1], (len(x),), device=x.device)
    check_labels(y, len(x), logits.shape[1])
    y = y.to(x.device)
    penalty.check(logits, y)
    plain = returned is logits and not arguments.any and torch.equal(given, x)
    options = {"args": args, "kwargs": kwargs, "output": output}
    options["batch_norm"] = "coupled" if with_batch_statistics(model.modules()) else "refuse"
    called = model if plain else Logits(model, arguments, output)
    classes = logits.shape[1]
    task = Task(model, x, y, penalty, lam, arguments, called, options, classes, draws)
    _check_trained(task)
    return task


def _check_trained(task: Task) -> None:
    """Check that a plain step gives a gradient to x, as penalties need it, and to parameters."""
    leaf = task.x.clone().requires_grad_()
    with tried("a plain step"), torch.enable_grad(), at_seed(leaf.device):
        logits = task.called(leaf.clone())  # the model may begin in place
        if logits.requires_grad:
            F.cross_entropy(logits, task.y).backward()
            clear(task.parameters)
    check_depends(leaf.grad is not None)


def shown(penalty: Penalty) -> str:
    """Return a penalty as it is written: its n, and the options that are not the default."""
    words = []
    fields = sorted(dataclasses.fields(penalty), key=lambda field: field.name != "n")
    for field in fields:
        value = getattr(penalty, field.name)
        if isinstance(value, Tensor):
            words.append(f"{field.name}={value.tolist()}")
        elif field.name == "n" or value != field.default:
            words.append(f"{field.name}={value!r}")
    return f"{type(penalty).__name__}({', '.join(words)})"
