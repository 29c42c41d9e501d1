"""A data set for deepfool_to_disk, and what is the same."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from jacfast import DeepFoolResult


def loader(x, y, size=4):
    return DataLoader(TensorDataset(x, y), batch_size=size)


def same(got: DeepFoolResult, want: DeepFoolResult) -> None:
    for name in DeepFoolResult.names():
        assert torch.equal(getattr(got, name), getattr(want, name)), name
