"""Copies of tensors that share their memory among themselves as the tensors do."""

from collections.abc import Iterable

import torch
from torch import Tensor


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return a copy of each; of those that share their memory, views of one copy of it."""
    tensors = list(tensors)
    wholes = {place: _whole(some) for place, some in sharing(tensors).items()}
    if not wholes:
        return [tensor.clone() for tensor in tensors]
    places = [_memory(tensor) for tensor in tensors]
    return [
        _view(wholes[place], tensor) if place in wholes else tensor.clone()
        for place, tensor in zip(places, tensors, strict=True)
    ]


def sharing(tensors: Iterable[Tensor]) -> dict[int, list[Tensor]]:
    """Return those plain tensors that share their memory with others, by where it begins."""
    found: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        if place := _memory(tensor):
            found.setdefault(place, []).append(tensor)
    return {place: some for place, some in found.items() if len(some) > 1}


def _memory(tensor: Tensor) -> int:
    """Return where the storage of a plain tensor begins; 0 if it has none, or is no plain one."""
    if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.is_quantized:
        return 0
    return 0 if tensor.is_conj() or tensor.is_neg() else tensor.untyped_storage().data_ptr()


def _whole(tensors: list[Tensor]) -> Tensor:
    """Return a copy of a storage, in the dtype of these tensors, or in bytes."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    dtypes = {tensor.dtype for tensor in tensors}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.uint8
    one = torch.empty(0, dtype=dtype, device=tensors[0].device)
    return one.set_(max(storages, key=len)).clone()


def _view(whole: Tensor, tensor: Tensor) -> Tensor:
    """Return of the copy of a storage what a tensor is of the storage."""
    if whole.dtype != tensor.dtype:
        whole = whole[: len(whole) // tensor.itemsize * tensor.itemsize].view(tensor.dtype)
    return whole.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
