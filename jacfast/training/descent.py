"""Steps of an optimizer: behind the gradients, and with a closure where it insists on one."""

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

Losses = Callable[[], tuple[Tensor, float]]  # what to differentiate, and the loss to show


class Descent:
    """The steps of one optimizer in one run.

    The gradients are there before ``step()`` is called, as in any loop: its hooks see them, and it
    need not know of closures, or of gradients that are switched off around it. An optimizer whose
    closure has no default, as that of LBFGS, evaluates the loss by itself alone; one that fails
    without a closure, which it may have, gets one behind the gradients, as SAM wants it.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.evaluates = needs_closure(optimizer)
        own = type(optimizer).__module__.startswith("torch.optim")
        may_insist = "closure" in _parameters(optimizer) and not self.evaluates and not own
        self.insists: bool | None = None if may_insist else False  # None: to be seen

    def step(self, losses: Losses, epoch: int, name: str) -> float:
        """Take a step; return the loss before it.

        Args:
            epoch, name: of the run, for the error.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        shown: list[float] = []

        @torch.enable_grad()
        def closure() -> float:
            value, whole = losses()
            shown.append(whole)
            if not math.isfinite(whole):
                rates = ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups)
                raise FloatingPointError(
                    f"loss must stay finite; got {whole} in epoch {epoch} of {name}: "
                    f"lower lr (now {rates}) or the weight of the penalty"
                )
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()
            return whole

        if not self.evaluates:
            closure()
        if self.insists is None:
            self._try(closure)
        elif self.evaluates or self.insists:
            self.optimizer.step(closure)
        else:
            self.optimizer.step()
        return shown[0]

    def _try(self, closure: Callable[[], float]) -> None:
        """Take the first step without a closure; with one if that fails, from where it began."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        before = [p.grad if p.grad is None else p.grad.clone() for p in parameters]
        try:
            self.optimizer.step()
            self.insists = False
        except Exception:
            for p, g in zip(parameters, before, strict=True):  # hooks may have changed them
                p.grad = g
            self.optimizer.step(closure)
            self.insists = True


def needs_closure(optimizer: Optimizer) -> bool:
    """Say whether ``step()`` evaluates the loss by itself, as that of LBFGS, or of one around it.

    What passes on whatever it is given may be around one that does.
    """
    named = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    of_steps = [list(_parameters(one).values())[1:] for one in (optimizer, *inner(optimizer))]
    return any(
        one.kind not in named and one.default is inspect.Parameter.empty
        for of_step in of_steps
        for one in of_step
    )


def inner(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers that one is around, in its attributes and in theirs, each once."""
    found, todo = list[Optimizer](), [optimizer]
    while todo:
        held = [one for one in vars(todo.pop()).values() if isinstance(one, Optimizer)]
        new = [one for one in held if one is not optimizer and one not in found]
        found, todo = found + new, todo + new
    return found


def _parameters(optimizer: Optimizer) -> dict[str, inspect.Parameter]:
    # of the class: schedulers put a function in the place of the method
    return dict(inspect.signature(type(optimizer).step).parameters)
