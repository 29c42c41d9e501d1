"""Logits of a data set, batch by batch, from a model that is left as it was."""

from typing import Unpack

import torch
from torch import Tensor

from jacfast.calling import (
    AnyModel,
    Call,
    Further,
    check_labels,
    classes_of,
    logits_of,
    quiet,
    say_bad_logits,
    takes_model,
)
from jacfast.checks import count

BATCH = 250


@takes_model
def predict(
    model: AnyModel, x: Tensor, batch_size: int = BATCH, **further: Unpack[Further]
) -> Tensor:
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
    parts = batches(model, x, batch_size)
    with quiet(model, gradients=False), torch.no_grad():
        logits = torch.cat([logits_of(call, part) for call, part in parts])
    say_bad_logits(model, x, logits)
    return logits


def classified(model: Call, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Say per sample [N] whether it is classified as y [N]; with NaN or +inf it is not."""
    check_labels(y, len(x))
    logits = predict(model, x, batch_size)
    found = classes_of(logits)
    check_labels(y, *logits.shape)
    return found == y


def batches(model: Call, x: Tensor, batch_size: int) -> list[tuple[Call, Tensor]]:
    """Split a batch of inputs, or say what is wrong with it; each part with the model for it."""
    count("batch_size", batch_size)
    slices = [slice(start, start + batch_size) for start in range(0, len(x), batch_size)]
    return [(model.rows(part), x[part]) for part in slices]
