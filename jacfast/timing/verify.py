"""The gradients of a penalised step by plain autograd, to hold every contender against."""

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from jacfast.calling import State, eager, in_eval_mode
from jacfast.calling.masks import LAYERS
from jacfast.calling.seeds import at_seed
from jacfast.memory import ran_out
from jacfast.penalties.base import Penalty
from jacfast.timing.autograd import Autograd, flat
from jacfast.timing.kept import clear
from jacfast.timing.memory import free_bytes
from jacfast.timing.task import Logits, Task

# Errors that roundings explain, relative to the norm of the gradient.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}
HALF = 0.1
MULTIPLE = 4  # of autograd's own error in the same dtype


@contextlib.contextmanager
def without_draws(task: Task) -> Iterator[str]:
    """Keep the model from drawing inside the context, in which each would draw its own masks.

    Its layers of dropout are in eval mode; if it still draws, all of it is. The value says so. What
    is remembered of the model to be put back inside (`State`) has to be looked at inside, too: it
    holds these flags.
    """
    if not task.draws:
        yield ""
        return
    modules = list(task.model.modules())
    layers = [module for module in modules if isinstance(module, LAYERS)]
    with in_eval_mode(layers):
        if not _draws(task):
            yield "without dropout"
            return
    with in_eval_mode(modules):
        still = ", in which it draws, too" if _draws(task) else ""
        yield f"in eval mode, because the model draws{still}"


def _draws(task: Task) -> bool:
    """Say whether the model draws as it is now; it is left so."""
    state = State(task.called, copied=sys.maxsize)
    with torch.no_grad(), at_seed(task.x.device) as drawn:
        task.called(task.x)
        state.undo()
        return drawn()


def gradient(task: Task, step: Callable[[], object]) -> Tensor:
    """Return what a step, from seed 0, leaves in the gradients of all parameters, in float64."""
    parameters = task.parameters
    clear(parameters)
    with at_seed(task.x.device):
        step()
    found = [p.grad for p in parameters]
    clear(parameters)
    return flat(parameters, found)


def error(found: Tensor, truth: Tensor) -> float:
    """Return the relative error; NaN if there is one in either."""
    size = truth.norm()
    return float((found - truth).norm() / (size if size > 0 else 1.0))


class Unchecked(Exception):
    """There is nothing to hold a contender against; the message says why."""


class Oracle:
    """What all contenders are held against: autograd on a float64 copy, if there can be one.

    Both are in the modes that the model is in now.

    Args:
        need: bytes that a penalised step by autograd takes.

    Attributes:
        words: in what it computes, and why not in float64.
    """

    def __init__(self, task: Task, need: int) -> None:
        self.own = self.best = Autograd(task, task.called, task.x)
        why = _why_no_copy(task, need)
        if not why:
            try:
                self.best = Autograd(task, *_copy(task))
            except Exception as error:  # whatever a model does when copied or called in float64
                why = f"{type(error).__name__}: {error}".splitlines()[0]
        dtype = str(task.x.dtype).removeprefix("torch.")
        self.words = "float64" if task.x.dtype == torch.float64 or not why else f"{dtype} ({why})"

    def gradient(self, penalty: Penalty) -> tuple[Tensor, float]:
        """Return the gradient, and the error that is let pass.

        Raises:
            Unchecked: autograd has none, or one that is not finite.
        """
        try:
            truth = self.best.gradient(penalty)
        except Exception as problem:
            if ran_out(problem):
                raise Unchecked("memory lacks for plain autograd") from problem
            words = f"{type(problem).__name__}: {problem}".splitlines()[0]
            raise Unchecked(f"plain autograd raises {words}") from problem
        if not bool(truth.isfinite().all()):
            raise Unchecked("the gradient of plain autograd is not finite")
        x, own = self.own.x, 0.0
        if self.best is not self.own:
            own = error(self.own.gradient(penalty), truth)
        return truth, max(TOLERANCE.get(x.dtype, HALF), MULTIPLE * own)


def _why_no_copy(task: Task, need: int) -> str:
    """Say why there can be no copy in float64; an empty string if nothing is known."""
    if task.x.dtype == torch.float64:
        return "the model's own"
    if task.draws and _draws(task):
        return "the model draws, in float64 something else"
    free, times = free_bytes(task.x.device), 8 // task.x.element_size()
    if free is not None and 2 * times * need > free:
        return f"a copy in float64 would need {2 * times * need / 1e9:.1f} GB"
    return ""


def _copy(task: Task) -> tuple[nn.Module, Tensor]:
    """Return what rivals call and x, in float64."""
    model: nn.Module = copy.deepcopy(task.model).double()
    x, called = task.x.double(), model
    if task.called is not task.model:
        called = Logits(model, task.arguments.double(), task.options["output"])
    state = State(called, copied=sys.maxsize)
    with torch.no_grad(), eager():
        dtype = called(x).dtype
    state.undo()
    if dtype != torch.float64:
        raise TypeError(f"a copy of the model in float64 returns {dtype}")
    return called, x
