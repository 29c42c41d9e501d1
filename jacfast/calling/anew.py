"""Weights that are computed in each call of a model, and left behind for others to read.

Pruning and the older norms of torch.nn.utils leave them in an attribute, parametrizations inside
``parametrize.cached()`` in a cache. What was computed while parameters had no gradient has no
graph: a term of it in a loss would give them none, without an error.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def of_torch(hook: Any) -> bool:
    """Say whether a hook is one of torch.nn.utils: spectral_norm, weight_norm, prune."""
    return type(hook).__module__.startswith("torch.nn.utils.")


def left_behind(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the modules with such a weight without a graph, though parameters have a gradient.

    What is in the cache is forgotten: whoever reads it next computes it.
    """
    for key, weight in list(parametrize._cache.items()):
        if weight is not None and not weight.requires_grad:
            parametrize._cache.pop(key, None)
    return [module for module in modules if any(True for _ in _stale(module))]


def compute_anew(modules: Iterable[nn.Module]) -> None:
    """Let such weights hang from the parameters, as after any call."""
    with torch.inference_mode(False), torch.enable_grad():
        for module in modules:
            for hook in _stale(module):
                hook(module, ())


def _stale(module: nn.Module) -> Iterator[Callable[..., Any]]:
    """Yield the hooks of a module whose weight has no graph, though it has parameters with one."""
    hooks = list(module._forward_pre_hooks.values())
    trained = hooks and any(p is not None and p.requires_grad for p in module._parameters.values())
    for hook in hooks if trained else ():
        name = getattr(hook, "name", getattr(hook, "_tensor_name", ""))
        weight = vars(module).get(name)
        if of_torch(hook) and isinstance(weight, Tensor) and not weight.requires_grad:
            yield hook
