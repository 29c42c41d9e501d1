"""Whether a model and a data set belong together."""

import torch
from torch import nn

from jacfast.calling import in_eval_mode, pick, without_statistics
from jacfast.data.split import Split


def check_fits(model: nn.Module, split: Split) -> int:
    """Try `model`, in eval mode, on one test image of `split`; return K, the number of its outputs.

    Raises:
        ValueError: it cannot take such images, couples them in eval mode, or does not return [N, K]
            logits with K at least the number of classes, or several outputs. TypeError: it returns
            no floating-point tensor.
    """
    if without_statistics(model.modules()):
        raise ValueError(
            "model must keep images apart; its batch-norm without running statistics "
            "(track_running_stats=False) couples them in eval mode as well: take another "
            "normalisation"
        )
    x = split.test_x[:1].clone()  # the model may work in place
    own = next(model.parameters(), x)
    with in_eval_mode(model.modules()), torch.no_grad():
        try:
            returned = model(x.to(own.device))
        except (Exception, SystemExit) as error:  # whatever the user's module does
            cast = f", {x.dtype} (let the factory return one that casts them to {own.dtype})"
            kinds = "" if own.dtype == x.dtype else cast
            raise ValueError(
                f"model must accept images of shape {list(x.shape[1:])}{kinds}; got "
                f"{type(error).__name__}: {error}"
            ) from error
        logits = pick(returned, None)
        shape = list(logits.shape)
    if len(shape) != 2 or shape[1] < split.classes:
        raise ValueError(
            f"model must return [N, K] logits with K >= {split.classes} classes; got {shape}"
        )
    if bool(logits.isnan().any()):
        raise ValueError("model must return logits; those of the first test image are NaN")
    return shape[1]
