"""Directions in parameter space, along which surfaces are drawn."""

import torch
from torch import Tensor, nn

SCALES = ("filter", "plain")


def parameter_directions(
    model: nn.Module, *, scale: str = "filter", seed: int = 0
) -> list[dict[str, Tensor]]:
    """Return two random directions in parameter space, by the names of the parameters.

    Both are standard normal at first. ``scale="filter"``: each filter (index of the first
    dimension) is scaled to the norm of the model's filter, and parameters of fewer than two
    dimensions (biases, normalisation) are left out (zero). ``scale="plain"``: the direction as a
    whole is scaled to the norm of all parameters. So a coordinate of 1 is a change as large as the
    weights themselves.

    Args:
        model: an nn.Module with floating-point parameters.
        scale: ``filter`` or ``plain``.
        seed: of the draw; the global random state is not touched.

    Raises:
        TypeError: model is no nn.Module. ValueError: scale is unknown.

    Source: Li, Xu, Taylor, Studer & Goldstein 2018 (arXiv 1712.09913), section 4; Goodfellow,
    Vinyals & Saxe 2015.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {scale!r}")
    source = torch.Generator().manual_seed(seed)
    return [_parameter_direction(dict(model.named_parameters()), scale, source) for _ in range(2)]


def _parameter_direction(
    parameters: dict[str, nn.Parameter], scale: str, source: torch.Generator
) -> dict[str, Tensor]:
    drawn = {
        name: torch.randn(p.shape, generator=source, dtype=torch.float64).to(p)
        for name, p in parameters.items()
    }
    own = {name: p.detach() for name, p in parameters.items()}
    if scale == "plain":
        factor = _norm(own) / _norm(drawn)
        return {name: factor.to(d) * d for name, d in drawn.items()}
    return {name: _like_filters(d, own[name]) for name, d in drawn.items()}


def _norm(tensors: dict[str, Tensor]) -> Tensor:
    return torch.stack([t.double().norm().cpu() for t in tensors.values()]).norm()


def _like_filters(drawn: Tensor, own: Tensor) -> Tensor:
    if own.dim() < 2:
        return torch.zeros_like(drawn)
    rows = drawn.flatten(1)
    size = own.flatten(1).norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True)
    return (rows * size).view_as(drawn)
