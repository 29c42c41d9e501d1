"""Exact rows of the input Jacobian."""

import operator
from collections.abc import Iterable, Sequence
from typing import Unpack

import torch
from torch import Tensor

from jacfast.calling import AnyModel, Further, outputs_of, quiet, takes_model
from jacfast.checks import count
from jacfast.lean import lean
from jacfast.memory import advise
from jacfast.vjp import pull_back


@takes_model
def jacobian(
    model: AnyModel,
    x: Tensor,
    classes: Sequence[int] | Tensor | None = None,
    chunk_size: int | None = None,
    **further: Unpack[Further],
) -> Tensor:
    """Return ``dz_k(x_i)/dx_i`` for every sample i and every class k asked for.

    The model is evaluated in eval mode and left as it was; no parameter receives a gradient.

    Args:
        model: maps [N, ...] to logits [N, K], each sample by itself. Entries of a dense output
            [N, ...] are rows as well, in the order of ``flatten(1)``; [N] is one row.
        x: [N, ...], floating point.
        classes: the rows wanted, in this order: a sequence of integers, a tensor [C] of them, too;
            default all K.
        chunk_size: rows computed at a time; smaller needs less memory beside the result.
            Default all.

    Returns:
        [N, C, ...]: C = len(classes) rows of the shape of one sample, without a graph.

    Raises:
        TypeError: x is not floating point, or a class or chunk_size no integer. ValueError: a
            class is out of range, chunk_size < 1, the batch is empty, or the logits do not depend
            on x.
    """
    if chunk_size is not None:
        count("chunk_size", chunk_size)
    less = advise(f"less memory is needed with a smaller chunk_size; it was {chunk_size or 'all'}")
    with less, quiet(model), lean(model), torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = outputs_of(model, x)
        wanted = _wanted(classes, logits.shape[1])
        eye = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)[wanted]
        rows = x.new_empty(len(x), len(wanted), x[0].numel())
        size = chunk_size or len(wanted)
        for start in range(0, len(wanted), size):
            part = eye[start : start + size]
            vectors = part[:, None].expand(-1, *logits.shape)
            g = pull_back(logits, x, vectors, create_graph=False)
            rows[:, start : start + len(part)] = g.movedim(1, 0)
    return rows.reshape(len(x), len(wanted), *x.shape[1:])


def _wanted(classes: Sequence[int] | Tensor | None, rows: int) -> list[int]:
    """Return the rows wanted, of `rows`, as a list of Python's own integers."""
    if classes is None:
        return list(range(rows))
    given: object = getattr(classes, "tolist", lambda: classes)()  # of a tensor, of NumPy
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"classes must be a sequence of integers; got {given!r}")
    wanted: list[int] = []
    for k in given:
        # a mask among indices would choose other rows than it names
        if isinstance(k, bool) or not hasattr(k, "__index__"):
            raise TypeError(f"classes must be integers, and no mask; got {k!r}")
        wanted.append(operator.index(k))
    if not wanted or min(wanted) < 0 or max(wanted) >= rows:
        raise ValueError(f"classes must be indices in 0 .. K - 1 = {rows - 1}; got {wanted}")
    return wanted
