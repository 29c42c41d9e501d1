"""Readers of the standard data formats, and a small real data set."""

from pathlib import Path

from jacfast.data import cifar, idx
from jacfast.data.cifar import load_cifar10, load_cifar100
from jacfast.data.digits import load_digits
from jacfast.data.idx import load_mnist, read_idx
from jacfast.data.split import Split

__all__ = [
    "Split",
    "load",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_mnist",
    "read_idx",
]


def load(folder: Path | str | None) -> Split:
    """Read whichever data set `folder` holds, known by its file names; None: `load_digits`.

    Raises:
        FileNotFoundError: it holds none of MNIST, CIFAR-10 and CIFAR-100 whole; the message lists
            the names looked for.
    """
    if folder is None:
        return load_digits()
    folder = Path(folder)
    if any(path is not None for path in idx.find_mnist(folder).values()):
        return load_mnist(folder)
    if cifar.find(folder, "cifar-10-batches-py", cifar.CIFAR10):
        return load_cifar10(folder)
    if cifar.find(folder, "cifar-100-python", cifar.CIFAR100):
        return load_cifar100(folder)
    raise FileNotFoundError(
        f"{folder} must hold a data set; looked for MNIST: {', '.join(idx.MNIST.values())} (or "
        f".gz); CIFAR-10: {', '.join(cifar.CIFAR10)}; CIFAR-100: "
        f"{', '.join(cifar.CIFAR100)}"
    )
