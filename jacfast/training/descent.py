"""One step of an optimizer: behind the gradients, or with a closure where it cannot do without."""

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer


def descend(
    optimizer: Optimizer, losses: Callable[[], tuple[Tensor, float]], epoch: int, name: str
) -> float:
    """Take a step; return the loss before it.

    The gradients are there before ``step()`` is called, as in any loop: its hooks see them, and it
    need not know of closures, or of gradients that are switched off around it.

    Args:
        losses: returns what to differentiate, and the loss to show.
        epoch, name: of the run, for the error.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    shown: list[float] = []

    @torch.enable_grad()
    def closure() -> float:
        value, whole = losses()
        shown.append(whole)
        if not math.isfinite(shown[-1]):
            rates = ", ".join(f"{group['lr']:g}" for group in optimizer.param_groups)
            raise FloatingPointError(
                f"loss must stay finite; got {shown[-1]} in epoch {epoch} of {name}: "
                f"lower lr (now {rates}) or the weight of the penalty"
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        return shown[-1]

    if needs_closure(optimizer):
        optimizer.step(closure)
        return shown[0]
    closure()
    try:
        optimizer.step()
    except (AssertionError, TypeError):
        if not _may_have_closure(optimizer):
            raise
        optimizer.step(closure)  # as SAM, which insists on one behind the gradients
    return shown[0]


def needs_closure(optimizer: Optimizer) -> bool:
    """Say whether ``step()`` evaluates the loss by itself, as that of LBFGS, or of one around it.

    What passes on whatever it is given may be around one that does.
    """
    # of the class: schedulers put a function in the place of the method
    _, *others = inspect.signature(type(optimizer).step).parameters.values()
    named = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    asks = (one.kind not in named and one.default is inspect.Parameter.empty for one in others)
    inner = (one for one in vars(optimizer).values() if isinstance(one, Optimizer))
    return any(asks) or any(map(needs_closure, inner))


def _may_have_closure(optimizer: Optimizer) -> bool:
    return "closure" in inspect.signature(type(optimizer).step).parameters
