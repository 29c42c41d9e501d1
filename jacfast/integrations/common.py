"""What the integrations share: how they check their arguments, and what they show."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from jacfast.checks import is_number
from jacfast.penalties.base import Penalty, check_addend
from jacfast.penalties.frobenius import Frobenius
from jacfast.penalties.learned import learned_by
from jacfast.step.step import check_early
from jacfast.training.schedule import Schedule

# Those of forward_with_penalty that are the same for every batch.
OPTIONS = ("layer", "precision", "batch_norm", "chunk_size", "generator", "output")


def as_schedule(schedule: float | Schedule) -> Schedule:
    """Return a schedule, constant for a number.

    Raises:
        TypeError: it is neither. ValueError: the number is negative or not finite.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if not is_number(schedule):
        raise TypeError(f"schedule must be a number or a Schedule; got {type(schedule).__name__}")
    return Schedule(schedule)


def check(penalty: Penalty, options: Mapping[str, Any]) -> None:
    """Check, before the first batch, what `forward_with_penalty` would check with it."""
    check_addend(penalty)
    check_early(penalty, options, OPTIONS)


def check_learned(penalty: Penalty, owner: nn.Module) -> None:
    """Refuse what a penalty learns or keeps where nobody would optimise, move or save it.

    Raises:
        ValueError: a parameter of the penalty, or a buffer, is none of the module that is trained.
    """
    own, kind = learned_by(penalty), type(owner).__name__
    if not (saved := own.state_dict()):
        return
    known = {id(tensor) for tensor in (*owner.parameters(), *owner.buffers())}
    for name, parameter in own.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            raise ValueError(
                f"penalty must learn parameters of {kind} (register it there: "
                "module.name = parameter): others would be neither optimised, averaged over "
                f"processes nor saved; got {name} of shape {list(parameter.shape)}"
            )
    for name, buffer in own.named_buffers():
        if name in saved and id(buffer) not in known:
            raise ValueError(
                f"penalty must keep buffers of {kind} (register the module that has them there: "
                "module.name = it; a constant one may be persistent=False): others would be "
                f"neither moved nor saved; got {name} of shape {list(buffer.shape)}"
            )


def is_due(penalty: Penalty, lam: float, step: int) -> bool:
    """Say whether step `step` has a penalty: its weight is not 0 and `every` does not skip it."""
    return lam > 0 and step % penalty.every == 0


def jacobian_norm(penalty: Penalty, value: Tensor) -> Tensor | None:
    """Return the root mean square of ||J(x_i)||_F if `value` of `penalty` tells it, else None."""
    if type(penalty) is not Frobenius or penalty.root or penalty.weights is not None:
        return None
    return (value / penalty.every).sqrt()
