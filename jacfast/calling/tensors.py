"""The tensors in what a model returns: found, and put back."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

SIMPLE = (bool, int, float, complex, str, bytes)


def tensors(returned: Any) -> list[Tensor]:
    """Return the tensors in whatever a model returns, each once.

    At any depth of tuples, lists, dictionaries and the outputs of transformers' models, and among
    the attributes of other objects.
    """
    found: dict[int, Tensor] = {}
    for leaf in pytree.tree_leaves(returned):
        for tensor in [leaf] if isinstance(leaf, Tensor) else _attributes(leaf).values():
            found[id(tensor)] = tensor
    return list(found.values())


def rebuilt(returned: Any, places: Sequence[Tensor], values: Sequence[Tensor]) -> Any:
    """Return the same structure with `values` in the places of some of its tensors."""
    new = {id(tensor): value for tensor, value in zip(places, values, strict=True)}

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


def outline(returned: Any) -> list[Any]:
    """Return what is there but the first dimension and the entries of tensors, to be compared.

    Of objects that are not looked into the number, which is theirs while they are there.
    """
    leaves, structure = pytree.tree_flatten(returned)
    order = {id(tensor): place for place, tensor in enumerate(tensors(returned))}
    return [structure, *(part for leaf in leaves for part in _parts(leaf, order))]


def _parts(leaf: Any, order: dict[int, int]) -> Iterator[Any]:
    if isinstance(leaf, Tensor):
        yield order[id(leaf)], leaf.shape[1:], leaf.dtype, leaf.device
    elif _attributes(leaf):
        yield type(leaf)
        for name, value in vars(leaf).items():
            yield name
            yield from _parts(value, order) if isinstance(value, Tensor) else [_simple(value)]
    else:
        yield _simple(leaf)


def _simple(value: Any) -> Any:
    return type(value), value if isinstance(value, SIMPLE) else id(value)


def _attributes(leaf: Any) -> dict[str, Tensor]:
    held = getattr(leaf, "__dict__", {})
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}
