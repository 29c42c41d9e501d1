"""Directions in parameter space, along which surfaces are drawn."""

import torch
from torch import Tensor, nn

from jacfast import checks


def parameter_directions(model: nn.Module, *, seed: int = 0) -> list[dict[str, Tensor]]:
    """Return two random directions in parameter space, by the names of the parameters.

    Both are standard normal at first. Then each filter (index of the first dimension) is scaled to
    the norm of the model's filter, ``d <- d ||theta|| / ||d||``, and parameters of fewer than two
    dimensions (biases, normalisation) are left out (zero). So a coordinate of 1 is a change as
    large as the weights themselves.

    Args:
        model: an nn.Module with floating-point parameters, real or complex.
        seed: of the draw; the global random state is not touched.

    Returns:
        Two, each with a tensor for every parameter, in its shape and dtype, without a graph.

    Raises:
        TypeError: model is no nn.Module, or seed no integer.

    Source: Li, Xu, Taylor, Studer & Goldstein 2018 (arXiv 1712.09913), section 4, whose settings
    Yu, Liu, Wang & Chen took for figure 2.
    """
    check_module(model)
    source = torch.Generator().manual_seed(checks.seed(seed))
    return [
        {name: _direction(p.detach(), source) for name, p in model.named_parameters()}
        for _ in range(2)
    ]


def check_module(model: object) -> nn.Module:
    """Return a model that has parameters with names, or say that it has none."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        raise TypeError("model must be the module inside, model.module; got DataParallel")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model must be one whose parameters can be exchanged; got one of torch.jit")
    return model


def _direction(own: Tensor, source: torch.Generator) -> Tensor:
    dtype = torch.complex128 if own.is_complex() else torch.float64
    drawn = torch.randn(own.shape, generator=source, dtype=dtype, device=source.device).to(own)
    if own.dim() < 2:
        return torch.zeros_like(drawn)
    rows = drawn.flatten(1)
    size = own.flatten(1).norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True)
    return (rows * size).view_as(drawn)
