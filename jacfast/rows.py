"""Exact rows of the input Jacobian."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from jacfast.calling import AnyModel, Further, outputs_of, quiet, takes_model
from jacfast.lean import lean
from jacfast.memory import advise
from jacfast.renamed import renamed
from jacfast.vjp import pull_back


@renamed(chunk="chunk_size")
@takes_model
def jacobian(
    model: AnyModel,
    x: Tensor,
    classes: Sequence[int] | None = None,
    chunk_size: int | None = None,
    **further: Unpack[Further],
) -> Tensor:
    """Return ``dz_k(x_i)/dx_i`` for every sample i and every class k asked for.

    The model is evaluated in eval mode and left as it was; no parameter receives a gradient.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself. Entries of a dense output
            [N, ...] are rows as well, in the order of ``flatten(1)``; [N] is one row.
        x: [N, ...], floating point.
        classes: the rows wanted, in this order; default all K.
        chunk_size: rows computed at a time; smaller needs less memory beside the result.
            Default all.

    Returns:
        [N, C, ...]: C = len(classes) rows of the shape of one sample, without a graph.

    Raises:
        TypeError: x is not floating point. ValueError: a class is out of range, chunk_size < 1, the
            batch is empty, or the logits do not depend on x.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be >= 1; got {chunk_size}")
    less = advise(f"less memory is needed with a smaller chunk_size; it was {chunk_size or 'all'}")
    with less, quiet(model), lean(model), torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = outputs_of(model, x)
        wanted = list(range(logits.shape[1]) if classes is None else classes)
        if not wanted or min(wanted) < 0 or max(wanted) >= logits.shape[1]:
            raise ValueError(
                f"classes must be indices in 0 .. K - 1 = {logits.shape[1] - 1}; got {wanted}"
            )
        eye = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)[wanted]
        rows = x.new_empty(len(x), len(wanted), x[0].numel())
        size = chunk_size or len(wanted)
        for start in range(0, len(wanted), size):
            part = eye[start : start + size]
            vectors = part[:, None].expand(-1, *logits.shape)
            g = pull_back(logits, x, vectors, create_graph=False)
            rows[:, start : start + len(part)] = g.movedim(1, 0)
    return rows.reshape(len(x), len(wanted), *x.shape[1:])
