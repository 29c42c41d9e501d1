"""Dropout of one process's samples: their part of what is drawn for the whole batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from jacfast.calling.contexts import hooked
from jacfast.calling.masks import FUNCTIONS, ones_of
from jacfast.portion import Portion, portion


class OfWholeBatch(TorchFunctionMode):
    """Dropout as one process draws it, for the samples of the `portion` that is at hand.

    In the functions of dropout of tensors [n, ...], n samples, and [n * t, ...], t rows each, and
    in ``bernoulli_(p)`` of tensors [n, ...], by which whole paths are dropped. What else is drawn
    is left alone, in a compiled model, too, and so is all that a checkpoint will draw again, from
    where it has drawn.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        given = kwargs or {}
        if torch.compiler.is_compiling():  # in a compiled model, whose graph this would break
            return func(*args, **given)
        here = portion()
        if here is not None and torch.is_grad_enabled() and not hooked():
            if func in FUNCTIONS:
                return _dropped(here, func, *args, **given)
            if func is Tensor.bernoulli_:
                return _drawn(here, *args, **given)
        return func(*args, **given)


def _dropped(
    here: Portion,
    func: Callable,
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    samples = len(here.index)
    if not training or not input.dim() or len(input) % samples:
        return func(input, p, training, inplace)
    rows = len(input) // samples

    def draw(count: int) -> Tensor:
        return func(ones_of(input, count * rows), p, True).unflatten(0, (count, rows))

    numbers = here.drawn(draw, samples)
    assert numbers is not None  # draw returns a tensor
    factor = numbers.flatten(0, 1)
    return input.mul_(factor) if inplace else input * factor


def _drawn(
    here: Portion,
    input: Tensor,
    p: float | Tensor = 0.5,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    samples = len(here.index)
    if generator is not None or isinstance(p, Tensor) or not input.dim() or len(input) != samples:
        return input.bernoulli_(p, generator=generator)
    numbers = here.drawn(lambda count: ones_of(input, count).bernoulli_(p), samples)
    assert numbers is not None  # as above
    return input.copy_(numbers)
