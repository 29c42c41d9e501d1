"""Add the penalty to code that calls the model by itself: see `penalised`."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from jacfast.penalties.base import Penalty
from jacfast.penalties.squares import Frobenius
from jacfast.step.forward import forward_with_penalty


class Held:
    """What a penalised call leaves behind."""

    def __init__(self) -> None:
        self._penalty: Tensor | None = None

    @property
    def penalty(self) -> Tensor:
        """The penalty of the call, a scalar to add to the loss."""
        if self._penalty is None:
            raise RuntimeError("the model was not called inside penalised(model): no penalty")
        return self._penalty


@contextlib.contextmanager
def penalised(
    model: nn.Module, y: Tensor | None = None, *, penalty: Penalty = Frobenius(), **options
) -> Iterator[Held]:
    """Let one call of `model`, wherever it happens inside the context, compute the penalty, too.

    For training steps that one does not want to change::

        with jacfast.penalised(model, penalty=jacfast.Frobenius()) as held:
            loss = training_step(batch)  # calls model(x) once
        (loss + lam * held.penalty).backward()

    The call costs what `forward_with_penalty` costs, whose `options` these are. Afterwards, also
    after an exception, the model is as it was.

    Raises:
        RuntimeError: the model is called a second time inside, or ``held.penalty`` is read without
            a call; the model itself (not a layer of it) has hooks. And what
            `forward_with_penalty` raises.
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(model, name) for name in hooks):
        raise RuntimeError(
            "the model must have no hooks of its own inside penalised(model), where they would run "
            "twice: use forward_with_penalty, or name the module inside that is to be penalised"
        )
    held, own = Held(), model.__dict__.get("forward")

    def restore() -> None:
        if own is None:
            model.__dict__.pop("forward", None)
        else:
            model.forward = own  # type: ignore[method-assign]

    def forward(*args: Tensor, **named: Tensor) -> Tensor:
        if len(given := (*args, *named.values())) != 1:
            raise TypeError(f"the model must be called with x alone; got {len(given)} arguments")
        if held._penalty is not None:
            raise RuntimeError(
                "the model was called twice inside penalised(model): use forward_with_penalty for "
                "the call that is to be penalised"
            )
        restore()
        try:
            x = given[0]
            logits, held._penalty = forward_with_penalty(model, x, y, penalty=penalty, **options)
        finally:
            model.forward = forward  # type: ignore[method-assign]
        return logits

    model.forward = forward  # type: ignore[method-assign]
    try:
        yield held
    finally:
        restore()
