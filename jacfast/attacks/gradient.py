"""What attacks ask of a model: labels, logits with their graph, rows of finite gradients."""

import torch
from torch import Tensor

from jacfast.calling import Model, check_labels, logits_of
from jacfast.vjp import pull_back


def labels_of(model: Model, x: Tensor, y: Tensor | None, *, name: str = "y") -> Tensor:
    """Return y [N], or the predicted labels. The number of classes is not looked at."""
    if y is not None:
        check_labels(y, len(x), name=name)
        return y
    return look(model, x).argmax(dim=1)


@torch.no_grad()
def look(model: Model, x: Tensor) -> Tensor:
    """Return the logits [N, K] without a graph."""
    return logits_of(model, x.detach())


@torch.enable_grad()
def forward(model: Model, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return a copy of `point` that a graph starts from, and the logits [N, K] it leads to."""
    leaf = point.detach().clone().requires_grad_()
    return leaf, logits_of(model, leaf)


def finite_rows(logits: Tensor, leaf: Tensor, cotangents: Tensor) -> Tensor:
    """Return ``J^T v`` [n, N, D] of cotangents [n, N, K]; 0 for samples where one is not finite.

    A sample without a usable gradient thus does not move, and the others do as they would alone.
    """
    rows = pull_back(logits, leaf, cotangents, create_graph=False)
    fine = rows.isfinite().all(dim=2, keepdim=True).all(dim=0, keepdim=True)
    return torch.where(fine, rows, 0)
