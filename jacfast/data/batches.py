"""What a data loader gives: a batch of images, and labels if there are any."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

IMAGES = ("x", "image", "images", "img", "input", "inputs", "pixel_values", "data")
LABELS = ("y", "label", "labels", "target", "targets")


def split_batch(batch: Any, number: int, labels: bool) -> tuple[Tensor, Tensor | None]:
    """Return the images of a batch and, if asked for, its labels.

    Args:
        batch: x, (x, y, ...), or a mapping with one of the names `IMAGES` and one of `LABELS`, of
            tensors or NumPy arrays.
        number: of the batch, for errors.
        labels: whether y is needed.

    Raises:
        TypeError, ValueError: it is something else, or has no labels.
    """
    if isinstance(batch, Mapping):
        parts = [_named(batch, IMAGES, number)]
        parts += [_named(batch, LABELS, number)] if labels else []
    else:
        parts = list(batch) if isinstance(batch, tuple | list) and batch else [batch]
    if labels and len(parts) < 2:
        raise ValueError(f"labels=True needs batches of (x, y); batch {number} has x only")
    x, *rest = [_tensor(part, number) for part in parts[: 1 + labels]]
    return x, _labels(rest[0]) if rest else None


def _named(batch: Mapping, names: tuple[str, ...], number: int) -> Any:
    found = [name for name in names if name in batch]
    if len(found) != 1:
        raise ValueError(
            f"batches that are mappings must have one of {', '.join(names)}; batch {number} has "
            f"{', '.join(map(str, batch))}: yield (x, y) instead"
        )
    return batch[found[0]]


def _tensor(part: Any, number: int) -> Tensor:
    if isinstance(part, Tensor):
        return part
    if isinstance(part, np.ndarray):
        return torch.from_numpy(np.array(part))
    raise TypeError(
        "batches must be tensors or NumPy arrays x, or (x, y), or mappings of them; batch "
        f"{number} holds a {type(part).__name__}"
    )


def _labels(y: Tensor) -> Tensor:
    """Return whole numbers as int64; else y as it is, for the attack to refuse."""
    whole = not y.dtype.is_floating_point and not y.dtype.is_complex and y.dtype != torch.bool
    return y.long() if whole else y
