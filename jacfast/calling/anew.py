"""Weights that are computed in each call of a model, and left behind for others to read.

Pruning and the older norms of torch.nn.utils leave them in an attribute, parametrizations inside
``parametrize.cached()`` in a cache. What was computed while parameters had no gradient has no
graph: a term of it in a loss would give them none, without an error.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def of_torch(hook: Any) -> bool:
    """Say whether a hook is one of torch.nn.utils: spectral_norm, weight_norm, prune."""
    return type(hook).__module__.startswith("torch.nn.utils.")


def weight_of(hook: Any) -> str:
    """Return the name of the weight that such a hook computes; of another hook most often ""."""
    return getattr(hook, "name", getattr(hook, "_tensor_name", ""))


Hook = Callable[..., Any]


def computing(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, Hook, str]]:
    """Return the hooks that compute a weight which has a graph now, with its module and name."""
    found = []
    for module in modules:
        for hook in module._forward_pre_hooks.values():
            name = weight_of(hook)
            if of_torch(hook) and _has_graph(vars(module).get(name)):
                found.append((module, hook, name))
    return found


def lost(weights: list[tuple[nn.Module, Hook, str]]) -> list[tuple[nn.Module, Hook]]:
    """Return those that have no graph any more, though a parameter of the module has a gradient.

    What is in the cache without one is forgotten: whoever reads it next computes it.
    """
    for key, weight in list(parametrize._cache.items()):
        if weight is not None and not weight.requires_grad:
            parametrize._cache.pop(key, None)
    return [
        (module, hook)
        for module, hook, name in weights
        if not _has_graph(vars(module).get(name)) and _trains(module)
    ]


def compute_anew(weights: Iterable[tuple[nn.Module, Hook]]) -> None:
    """Let these hang from the parameters, as after any call."""
    with torch.inference_mode(False), torch.enable_grad():
        for module, hook in weights:
            hook(module, ())


def _has_graph(weight: Any) -> bool:
    return isinstance(weight, Tensor) and weight.requires_grad


def _trains(module: nn.Module) -> bool:
    return any(p is not None and p.requires_grad for p in module._parameters.values())
