"""The tensors in what a model returns: found, and put back."""

import copy
import operator
from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from jacfast.calling.attributes import attributes

SIMPLE = (bool, int, float, complex, str, bytes)


def plain(t: Tensor) -> bool:
    """Say whether t is a tensor with all its entries in memory, of no kind of its own."""
    return type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided and not t.is_nested


def tensors(returned: Any) -> list[Tensor]:
    """Return the tensors in whatever a model returns, each once.

    At any depth of tuples, lists, dictionaries and the outputs of transformers' models, and among
    the attributes of other objects.
    """
    found: dict[int, Tensor] = {}
    for leaf in pytree.tree_leaves(returned):
        for tensor in [leaf] if isinstance(leaf, Tensor) else _held(leaf):
            found[id(tensor)] = tensor
    return list(found.values())


def rebuilt(returned: Any, places: Sequence[Tensor], values: Sequence[Tensor]) -> Any:
    """Return the same structure with `values` in the places of some of its tensors."""
    new = {id(tensor): value for tensor, value in zip(places, values, strict=True)}

    def replace(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return new.get(id(leaf), leaf)
        if not any(id(tensor) in new for tensor in _held(leaf)):
            return leaf
        other = copy.copy(leaf)
        for put, name, value in _contents(leaf):
            if put is operator.setitem or isinstance(value, Tensor):
                put(other, name, rebuilt(value, places, values))
        return other

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
    elif _held(leaf):
        yield type(leaf)
        for put, name, value in _contents(leaf):
            yield put, name
            if put is operator.setitem or isinstance(value, Tensor):
                parts, structure = pytree.tree_flatten(value)
                yield structure
                for part in parts:
                    yield from _parts(part, order)
            else:
                yield _simple(value)
    else:
        yield _simple(leaf)


def _simple(value: Any) -> Any:
    return type(value), value if isinstance(value, SIMPLE) else id(value)


def _held(leaf: Any) -> list[Tensor]:
    """Return the tensors in a dictionary of some class, and among an object's attributes."""
    found = []
    for put, _, value in _contents(leaf):
        found += tensors(value) if put is operator.setitem else []
        found += [value] if isinstance(value, Tensor) else []
    return found


def _contents(leaf: Any) -> Iterator[tuple[Callable, Any, Any]]:
    """Yield items and attributes of what is no container of pytree's: how to put them, and where.

    By `object.__setattr__` those of frozen dataclasses, too.
    """
    if isinstance(leaf, dict | UserDict):
        yield from ((operator.setitem, name, value) for name, value in leaf.items())
    yield from ((object.__setattr__, *one) for one in attributes(leaf).items())
