"""Models whose parameters are in pieces, one in each process: FSDP's and tensor parallelism's."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

SHARDING = {"FullyShardedDataParallel", "FSDPModule"}


def in_pieces(model: nn.Module) -> str | None:
    """Return what of `model` is in pieces, in words; None: its parameters are whole."""
    for name, module in model.named_modules():
        if kind := _sharding(type(module)):
            return f"{name or 'it'} is a {kind}"
    for name, parameter in model.named_parameters():
        if type(parameter).__name__ == "DTensor":
            return f"{name} is a DTensor"
    return None


def _sharding(kind: type) -> str | None:
    return next((base.__name__ for base in kind.__mro__ if base.__name__ in SHARDING), None)


def check_there(leaves: Iterable[Tensor]) -> None:
    """Refuse a graph with parameters whose numbers FSDP has freed: there is no way back through it.

    Raises:
        RuntimeError: there is one.
    """
    for leaf in leaves:
        usual = type(leaf) in (Tensor, nn.Parameter) and leaf.layout == torch.strided
        if usual and leaf.numel() and not leaf.untyped_storage().size():
            raise RuntimeError(
                f"the model's parameters must be kept for the loss's backward pass; one of shape "
                f"{list(leaf.shape)} was freed by FSDP after the penalty's: call "
                "model.set_reshard_after_backward(False) before model(x), and "
                "model.set_reshard_after_backward(True) before the loss's backward pass"
            )
