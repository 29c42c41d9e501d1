"""What an inner layer returns, which takes the place of the logits in a penalty (`layer=`)."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def watching(module: nn.Module, seen: list[tuple[Tensor, int]]) -> Iterator[None]:
    """Append to `seen` what a layer returns inside the context, and which version of it."""

    def look(*call: Any) -> None:
        seen.append(_version(call[2]))

    try:
        module.register_forward_hook(look)
        yield
    finally:  # by what was registered: an interrupt may have come before there was a handle
        for key in [key for key, hook in module._forward_hooks.items() if hook is look]:
            del module._forward_hooks[key]


def only_one(seen: list[tuple[Tensor, int]], layer: str) -> Tensor:
    """Return the output of the layer of that name, which a call of the model has `seen`."""
    if len(seen) != 1:
        raise ValueError(
            f"layer must be called once by the model; {layer!r} was called {len(seen)} times"
        )
    output, version = seen[0]
    if not isinstance(output, Tensor):
        raise TypeError(
            f"layer must return one tensor, a row per sample; {layer!r} returned a "
            f"{type(output).__name__}: name a layer behind it, or put an nn.Module that picks "
            "one of them there"
        )
    if _version(output)[1] != version:
        raise ValueError(
            f"layer must keep its output; that of {layer!r} was changed in place by what follows "
            "(inplace=True?)"
        )
    return output


def _version(output: Tensor) -> tuple[Tensor, int]:
    return output, getattr(output, "_version", 0)
