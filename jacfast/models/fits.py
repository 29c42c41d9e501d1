"""Whether a model and a data set belong together."""

import torch
from torch import nn

from jacfast.calling import in_eval_mode, pick, without_statistics
from jacfast.data.split import Split


def check_fits(model: nn.Module, split: Split) -> int:
    """Try `model`, in eval mode, on one test image of `split`; return K, the number of its outputs.

    Raises:
        ValueError: it cannot take such images, couples them in eval mode, or does not return [N, K]
            logits with K at least the number of classes.
    """
    if without_statistics(model.modules()):
        raise ValueError(
            "model must keep images apart; its batch-norm without running statistics "
            "(track_running_stats=False) couples them in eval mode as well: take another "
            "normalisation"
        )
    device = next((p.device for p in model.parameters()), split.test_x.device)
    x = split.test_x[:1].clone()  # the model may work in place
    with in_eval_mode(model.modules()), torch.no_grad():
        try:
            logits = pick(model(x.to(device)), None)
            shape = list(logits.shape)
        except (Exception, SystemExit) as error:  # whatever the user's module does
            raise ValueError(
                f"model must accept images of shape {list(x.shape[1:])}; got {type(error).__name__}"
                f": {error}"
            ) from error
    if len(shape) != 2 or shape[1] < split.classes:
        raise ValueError(
            f"model must return [N, K] logits with K >= {split.classes} classes; got {shape}"
        )
    if bool(logits.isnan().any()):
        raise ValueError("model must return logits; those of the first test image are NaN")
    return shape[1]
