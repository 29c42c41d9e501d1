"""Models whose parameters are in pieces, one in each process: FSDP's and tensor parallelism's."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from jacfast.calling.tensors import plain

SHARDING = {"FullyShardedDataParallel", "FSDPModule"}


def in_pieces(model: nn.Module, modules: Sequence[nn.Module]) -> str | None:
    """Return what of `model`, of these modules, is in pieces, in words; None: nothing."""
    if any(map(_sharding, set(map(type, modules)))):
        name, module = next((n, m) for n, m in model.named_modules() if _sharding(type(m)))
        return f"{name or 'it'} is a {_sharding(type(module))}"
    if any(map(_distributed, {type(p) for m in modules for p in m._parameters.values()})):
        name = next(name for name, p in model.named_parameters() if _distributed(type(p)))
        return f"{name} is a DTensor"
    return None


def _distributed(kind: type) -> bool:
    return kind.__name__ == "DTensor"


def _sharding(kind: type) -> str | None:
    return next((base.__name__ for base in kind.__mro__ if base.__name__ in SHARDING), None)


def explain_freed(g: Tensor, leaves: Iterable[Tensor]) -> None:
    """Let a way back through `g` say so where FSDP has freed parameters that it needs."""
    gone = [leaf for leaf in leaves if _freed(leaf)]

    def check(_: Tensor) -> None:
        for leaf in filter(_freed, gone):  # whoever gathers them anew has them
            raise RuntimeError(
                f"the model's parameters must be kept for the loss's backward pass; one of shape "
                f"{list(leaf.shape)} was freed by FSDP after the penalty's: call "
                "model.set_reshard_after_backward(False) before model(x), and "
                "model.set_reshard_after_backward(True) before the loss's backward pass"
            )

    if gone and g.requires_grad:
        g.register_hook(check)


def _freed(leaf: Tensor) -> bool:
    with torch._C.DisableTorchFunction():  # whoever records a step need not see this
        return plain(leaf) and leaf.numel() > 0 and not leaf.untyped_storage().size()
