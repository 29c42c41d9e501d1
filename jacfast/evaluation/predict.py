"""Logits of a data set, batch by batch, from a model that is left as it was."""

import torch
from torch import Tensor

from jacfast.attacks.checks import count
from jacfast.quiet import Model, check_input, logits_of, quiet

BATCH = 250


def predict(model: Model, x: Tensor, batch_size: int = BATCH) -> Tensor:
    """Return the logits [N, K] of x [N, ...] in eval mode, without a graph."""
    with quiet(model, gradients=False), torch.no_grad():
        # a clone: the model may work in place
        return torch.cat([logits_of(model, part.clone()) for part in batches(x, batch_size)])


def batches(x: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Split a batch of inputs, or say what is wrong with it."""
    check_input(x)
    count("batch_size", batch_size)
    return x.split(batch_size)
