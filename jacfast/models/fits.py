"""Whether a model and a data set belong together."""

import torch
from torch import nn

from jacfast.calling import in_eval_mode, pick
from jacfast.data.split import Split
from jacfast.step.checks import with_batch_statistics

ALONE = (
    " (an image is tried alone, as attacks do: batch-norm without running statistics, "
    "track_running_stats=False, has none then; take another normalisation)"
)


def check_fits(model: nn.Module, split: Split) -> int:
    """Try `model`, in eval mode, on one test image of `split`; return K, the number of its outputs.

    Raises:
        ValueError: it cannot take such images, or does not return [N, K] logits with K at least the
            number of classes.
    """
    device = next((p.device for p in model.parameters()), split.test_x.device)
    x = split.test_x[:1].clone()  # the model may work in place
    with in_eval_mode(model.modules()), torch.no_grad():
        try:
            logits = pick(model(x.to(device)), None)
            shape = list(logits.shape)
        except (Exception, SystemExit) as error:  # whatever the user's module does
            coupled = bool(with_batch_statistics(model.modules()))  # of the batch, in eval mode too
            raise ValueError(
                f"model must accept images of shape {list(x.shape[1:])}; got {type(error).__name__}"
                f": {error}{ALONE * coupled}"
            ) from error
    if len(shape) != 2 or shape[1] < split.classes:
        raise ValueError(
            f"model must return [N, K] logits with K >= {split.classes} classes; got {shape}"
        )
    if bool(logits.isnan().any()):
        raise ValueError("model must return logits; those of the first test image are NaN")
    return shape[1]
