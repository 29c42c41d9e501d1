"""What a model is called with: batches of inputs, and their labels."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from jacfast.calling.warning import warn


def check_input(x: Tensor, *, name: str = "x") -> None:
    """Check a batch of inputs to an attack or a measure."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(x).__name__}")
    if not x.dtype.is_floating_point:
        raise TypeError(f"{name} must be floating point{_instead(x.dtype)}; got {x.dtype}")
    check_dense(name, x)
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"{name} must be a non-empty batch [N, ...]; got shape {list(x.shape)}")


def check_dense(name: str, x: Tensor) -> None:
    """Check that every entry of a tensor is there."""
    if x.is_nested or x.layout != torch.strided:
        kind = "a nested tensor" if x.layout == torch.strided else x.layout
        raise TypeError(
            f"{name} must be dense ({name}.to_dense(), of nested ones {name}.to_padded_tensor(0)); "
            f"got {kind}"
        )


def _instead(dtype: torch.dtype) -> str:
    if dtype == torch.uint8:
        return " (scale images to [0, 1])"
    if dtype in (torch.int32, torch.int64):
        return (
            " (scale images to [0, 1]; of token ids pass the embeddings, which a gradient exists "
            "for, to the model by inputs_embeds, see examples/tokens.py)"
        )
    return ""


def check_untransformed(function: str, x: Tensor) -> None:
    """Refuse an x that is differentiated from outside: what follows has no derivative."""
    functorch = torch._C._are_functorch_transforms_active()
    if functorch or forward_ad.unpack_dual(x).tangent is not None:
        raise RuntimeError(
            f"{function} must be called outside torch.func transforms and forward-mode AD, to "
            "which its result would be a constant"
        )


def ordinary(x: Tensor) -> Tensor:
    """Return x, or a copy of an x made in inference mode: of that itself no gradient can be had."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x


def say_grey_values(x: Tensor) -> None:
    """Warn of images [N, C, H, W] that hold the whole numbers 0 .. 255, where nothing else would.

    Where there is a box of valid inputs, it says so.
    """
    x = x.detach()
    if x.dim() < 4 or not 128 <= float(x.max()) <= 255 or float(x.min()) < 0:
        return
    if bool((x == x.round()).all()):
        warn(
            f"x holds whole numbers of 0 .. {float(x.max()):.0f}: a model of images in [0, 1] "
            "needs them divided by 255 (for a model of grey values say clip=(0, 255))"
        )


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
