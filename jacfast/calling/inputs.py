"""What a model is called with: batches of inputs, and their labels."""

import torch
from torch import Tensor


def check_input(x: Tensor, *, name: str = "x") -> None:
    """Check a batch of inputs to an attack or a measure."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(x).__name__}")
    if not x.dtype.is_floating_point:
        raise TypeError(f"{name} must be floating point (scale images to [0, 1]); got {x.dtype}")
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"{name} must be a non-empty batch [N, ...]; got shape {list(x.shape)}")


def check_labels(y: Tensor, samples: int, classes: int | None = None, *, name: str = "y") -> None:
    """Check class labels: int64 [N], in 0 .. K - 1 once K is known."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name} must be an int64 tensor of labels; got {got}")
    if y.shape != (samples,):
        raise ValueError(f"{name} must have shape [N] = [{samples}]; got {list(y.shape)}")
    if classes is None:
        return
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{name} must lie in 0 .. K - 1 = {classes - 1}; got {low} .. {high}")
