"""A data set, as every reader returns it."""

import dataclasses
import hashlib
from typing import Any

import torch
from torch import Tensor

from jacfast.one_line import one_line


@dataclasses.dataclass(frozen=True, repr=False)
class Split:
    """Training and test images, float32 [N, C, H, W] in [0, 1], with labels int64 [N].

    Attributes:
        classes: how many there are.
        name: of the data set.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    name: str

    def __repr__(self) -> str:
        return one_line(self)

    @property
    def checksum(self) -> str:
        """The first 16 digits of the SHA-256 of images and labels: which data set it is."""
        found = hashlib.sha256()
        for part in (self.train_x, self.train_y, self.test_x, self.test_y):
            found.update(part.cpu().numpy().tobytes())
        return found.hexdigest()[:16]


def by_turns(split: Split) -> Split:
    """Return a data set whose classes come by turns in a part that is sorted by class.

    The first image of each class, the second of each, and so on: the first thousand of a sorted
    part would be of one class.
    """
    changed: dict[str, Any] = {}
    for images, labels in (("train_x", "train_y"), ("test_x", "test_y")):
        y = getattr(split, labels)
        if bool((y[1:] >= y[:-1]).all()):
            number = torch.arange(len(y), device=y.device)
            place = number - torch.searchsorted(y, y)  # of an image within its class
            order = (place * split.classes + y).argsort()
            changed |= {images: getattr(split, images)[order], labels: y[order]}
    return dataclasses.replace(split, **changed)


def on_device(split: Split, device: str) -> Split:
    """Return a data set of which the images and labels are on `device`."""
    names = ("train_x", "train_y", "test_x", "test_y")
    return dataclasses.replace(split, **{name: getattr(split, name).to(device) for name in names})
