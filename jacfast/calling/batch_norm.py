"""Batch-norm that uses statistics of the batch: each sample's outputs depend on all others."""

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from jacfast.calling.call import Call
from jacfast.calling.warning import warn


def with_batch_statistics(modules: Iterable[nn.Module]) -> list[_BatchNorm]:
    """Return the batch-norm layers that use statistics of the batch."""
    return [m for m in modules if isinstance(m, _BatchNorm) and (m.training or _has_none(m))]


def without_statistics(modules: Iterable[nn.Module]) -> list[_BatchNorm]:
    """Return those that do so in eval mode as well: they have none of their own."""
    return [m for m in modules if isinstance(m, _BatchNorm) and _has_none(m)]


def _has_none(layer: _BatchNorm) -> bool:
    return layer.running_mean is None or layer.running_var is None


def check_uncoupled(call: Call, modules: Iterable[nn.Module], gradients: bool) -> None:
    """Refuse gradients of samples that such layers couple; of figures without, warn once."""
    if call.samples == 1 or not without_statistics(modules):
        return
    if gradients:
        raise RuntimeError(
            "the model has batch-norm without running statistics (track_running_stats=False), "
            "which couples the samples in eval mode as well: a sample has no gradient of its own; "
            "take another normalisation (a batch of one sample has no other); got "
            f"{call.samples} samples at a time"
        )
    if call.first_time("found coupled"):
        warn(
            "the model has batch-norm without running statistics (track_running_stats=False), "
            "which couples the samples in eval mode as well: a sample has other logits in another "
            "batch, and figures depend on batch_size; take another normalisation"
        )
