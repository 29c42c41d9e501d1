"""The fast gradient sign method."""

import torch
from torch import Tensor

from jacfast.quiet import Model, check_input, check_labels, logits_of, quiet
from jacfast.vjp import pull_back


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor | None = None,
    *,
    eps: float,
    clip: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """Return ``x + eps * sign(d CE(model(x), y)/dx)``, clipped.

    The model is evaluated in eval mode and left as it was.

    Args:
        model: maps [N, ...] to logits [N, K].
        x: [N, ...], floating point.
        y: [N] int64, true labels; default: the predicted ones.
        eps: size of the change of each entry (infinity norm), in the units of x; >= 0.
        clip: the box of valid inputs, in which x must lie, or None.

    Returns:
        The perturbed batch, without a graph.

    Raises:
        TypeError: x or y has the wrong type. ValueError: a shape, label, eps or clip is wrong.

    Source: Goodfellow, Shlens & Szegedy 2015; Jakubovitz & Giryes eq. 16.
    """
    check_input(x)
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be finite and >= 0; got {eps}")
    check_box(clip, x)
    with quiet(model), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = logits_of(model, leaf)
        if y is None:
            y = logits.argmax(dim=1)
        check_labels(y, *logits.shape)
        cotangent = logits.detach().softmax(dim=1)
        cotangent[torch.arange(len(y), device=y.device), y] -= 1  # d CE / dz, sample by sample
        g = pull_back(logits, leaf, cotangent[None], create_graph=False)[0].view_as(x)
    moved = x.detach() + eps * g.sign()
    return moved if clip is None else moved.clamp(*clip)


def check_box(clip: tuple[float, float] | None, x: Tensor) -> None:
    """Check the box of valid inputs, and that x lies in it: clipping alone would change it."""
    if clip is None:
        return
    if not clip[0] < clip[1]:
        raise ValueError(f"clip must be (low, high) with low < high, or None; got {clip}")
    low, high = float(x.min()), float(x.max())
    if low < clip[0] or high > clip[1]:
        raise ValueError(
            f"x must lie in the box clip = {clip}; got {low:.4g} .. {high:.4g} "
            "(give the box of your inputs, or clip=None)"
        )
