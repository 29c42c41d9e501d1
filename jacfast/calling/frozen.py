"""Parameters that need no gradient for a while, and models that ask for theirs all the same."""

from collections.abc import Callable
from typing import TypeVar

from jacfast.calling.held import Hold

R = TypeVar("R")

# Only of leaves that were not made in inference mode; gradients end at x in any case.
GRADIENT = Hold(
    False,
    lambda p: p.requires_grad if p.is_leaf and not p.is_inference() else None,
    lambda p, requires_grad: p.requires_grad_(requires_grad),
)
# What PyTorch says of a tensor that needs no gradient, and of a loss of such tensors alone.
ASKED = (
    "One of the differentiated Tensors does not require grad",
    "does not require grad and does not have a grad_fn",
)


def unfrozen(run: Callable[[], R]) -> R:
    """Return ``run()``; of a model that asks for gradients of parameters, with these as they were.

    It does so in the backward pass of a Function (the adjoint of an ODE, a checkpoint of one's
    own), or when it is called (a step on other samples). From then on, to the end of the attack or
    measure, its parameters need gradients.
    """
    try:
        return run()
    except RuntimeError as error:
        if not any(text in str(error) for text in ASKED) or not GRADIENT.lift():
            raise
    return run()
