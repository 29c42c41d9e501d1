"""Readers of the standard data formats, and a small real data set."""

from jacfast.data.cifar import load_cifar10, load_cifar100
from jacfast.data.digits import load_digits
from jacfast.data.folder import load
from jacfast.data.idx import load_mnist, read_idx
from jacfast.data.images import load_images
from jacfast.data.split import Split

__all__ = [
    "Split",
    "load",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_images",
    "load_mnist",
    "read_idx",
]


def __dir__() -> list[str]:
    return sorted(__all__)
