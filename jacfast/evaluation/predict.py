"""Logits of a data set, batch by batch, from a model that is left as it was."""

import torch
from torch import Tensor

from jacfast.attacks.checks import count
from jacfast.calling import Model, check_input, logits_of, quiet

BATCH = 250


def predict(model: Model, x: Tensor, batch_size: int = BATCH) -> Tensor:
    """Return the logits [N, K] of x, in the dtype the model gives, without a graph.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself; evaluated in eval mode and
            left as it was.
        x: [N, ...], floating point.
        batch_size: samples at a time.

    Raises:
        TypeError: x is not floating point, batch_size no integer, or the model returns no
            floating-point tensor. ValueError: the shape of x or of what the model returns, or
            batch_size, is wrong.
    """
    with quiet(model, gradients=False), torch.no_grad():
        # a clone: the model may work in place
        return torch.cat([logits_of(model, part.clone()) for part in batches(x, batch_size)])


def batches(x: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Split a batch of inputs, or say what is wrong with it."""
    check_input(x)
    count("batch_size", batch_size)
    return x.split(batch_size)
