"""The tensors in what a model returns: found, and put back."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def differentiable(returned: Any) -> list[Tensor]:
    """Return the tensors with a graph in whatever a model returns, each once.

    At any depth of tuples, lists, dictionaries and the outputs of transformers' models, and among
    the attributes of other objects.
    """
    found: dict[int, Tensor] = {}
    for leaf in pytree.tree_leaves(returned):
        for tensor in [leaf] if isinstance(leaf, Tensor) else _attributes(leaf).values():
            if tensor.requires_grad:
                found[id(tensor)] = tensor
    return list(found.values())


def rebuilt(returned: Any, values: Sequence[Tensor]) -> Any:
    """Return the same structure with `values` in the places of its `differentiable` tensors."""
    given = zip(differentiable(returned), values, strict=True)
    new = {id(tensor): value for tensor, value in given}

    def replace(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return new.get(id(leaf), leaf)
        changed = {k: new[id(t)] for k, t in _attributes(leaf).items() if id(t) in new}
        if not changed:
            return leaf
        leaf = copy.copy(leaf)
        for name, value in changed.items():
            object.__setattr__(leaf, name, value)  # of frozen dataclasses, too
        return leaf

    return pytree.tree_map(replace, returned)


def _attributes(leaf: Any) -> dict[str, Tensor]:
    held = getattr(leaf, "__dict__", {})
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}
