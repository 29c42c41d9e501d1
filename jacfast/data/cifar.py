"""The pickles of CIFAR-10 and CIFAR-100, read without running what a pickle may say."""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jacfast import checks
from jacfast.data.split import Split


class Layout(NamedTuple):
    """What the files of one data set are called, and what is in them."""

    name: str
    child: str  # the folder that the published archive unpacks to
    files: tuple[str, ...]  # the last one is the test set
    key: str  # of the labels
    classes: int


CIFAR10 = Layout(
    name="CIFAR-10",
    child="cifar-10-batches-py",
    files=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
    key="labels",
    classes=10,
)
CIFAR100 = Layout("CIFAR-100", "cifar-100-python", ("train", "test"), "fine_labels", 100)

# All that a pickled dict of bytes, lists, integers and one uint8 array needs. Each is immutable, so
# that no pickle can leave a change behind. str.encode is _codecs.encode for text encodings alone.
RECONSTRUCT = np.zeros(0).__reduce__()[0]
ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): str.encode,
}


class _Reader(pickle.Unpickler):
    """An unpickler that imports nothing and calls nothing but what rebuilds an array."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(
                f"its pickle asks for {module}.{name}, which no CIFAR file needs; it was not called"
            )
        return ADMITTED[module, name]


def load_cifar10(folder: Path | str) -> Split:
    """Read CIFAR-10 (``cifar-10-batches-py``) from `folder` or its child of that name.

    Raises:
        FileNotFoundError: files are missing; the message lists them. ValueError: a file is damaged,
            or its pickle asks for more than arrays.
    """
    return _load(checks.path("folder", folder), CIFAR10)


def load_cifar100(folder: Path | str) -> Split:
    """Read CIFAR-100 (``cifar-100-python``, fine labels); otherwise as `load_cifar10`."""
    return _load(checks.path("folder", folder), CIFAR100)


def missing(folder: Path, layout: Layout) -> list[str]:
    """Return the names of the files that are not in `folder`, nor in its child."""
    place = _place(folder, layout)
    return [name for name in layout.files if not (place / name).is_file()]


def _place(folder: Path, layout: Layout) -> Path:
    child = folder / layout.child
    return child if child.is_dir() else folder


def _load(folder: Path, layout: Layout) -> Split:
    place = _place(folder, layout)
    if names := missing(folder, layout):
        raise FileNotFoundError(
            f"{place} must hold the files of {layout.name}; missing {', '.join(names)}"
        )
    batches = [_batch(place / name, layout) for name in layout.files]
    images, labels = zip(*batches, strict=True)
    return Split(
        train_x=torch.cat(images[:-1]).float().div_(255),
        train_y=torch.cat(labels[:-1]),
        test_x=images[-1].float().div_(255),
        test_y=labels[-1],
        classes=layout.classes,
        name=layout.name,
    )


def _batch(path: Path, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return images [N, 3, 32, 32] uint8 and labels [N] int64 of one file."""
    try:
        with path.open("rb") as file:
            content = _Reader(file, encoding="bytes").load()
        data, labels = (np.asarray(content[key.encode()]) for key in ("data", layout.key))
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        raise ValueError(
            f"{path} must be a pickle with data and {layout.key}, as published; got "
            f"{type(error).__name__}: {error}"
        ) from error
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path} must hold a list of integer labels; got {labels.dtype} {list(labels.shape)}"
        )
    if data.dtype != np.uint8 or data.shape != (len(labels), 3072):
        raise ValueError(
            f"{path} must hold uint8 data of shape [{len(labels)}, 3072]; got {data.dtype} "
            f"{list(data.shape)}"
        )
    low, high = labels.min(initial=0), labels.max(initial=0)
    if low < 0 or high >= layout.classes:
        raise ValueError(
            f"{path} must hold labels in 0 .. {layout.classes - 1}; got {low} .. {high}"
        )
    images = torch.from_numpy(data.reshape(-1, 3, 32, 32))
    return images, torch.from_numpy(labels.astype(np.int64))
