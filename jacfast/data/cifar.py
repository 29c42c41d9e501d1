"""The pickles of CIFAR-10 and CIFAR-100, read without running what a pickle may say."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jacfast.data.split import Split

CIFAR10 = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]  # the last one is the test
CIFAR100 = ["train", "test"]
# All that a pickled dict of bytes, lists, integers and one uint8 array can need.
ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _Reader(pickle.Unpickler):
    """An unpickler that calls nothing but what rebuilds an array."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise ValueError(f"its pickle asks for {module}.{name}, which no CIFAR file needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def load_cifar10(folder: Path | str) -> Split:
    """Read CIFAR-10 (``cifar-10-batches-py``) from `folder` or its child of that name.

    Raises:
        FileNotFoundError: files are missing; the message lists them. ValueError: a file is damaged,
            or its pickle asks for more than arrays.
    """
    return _load(folder, "cifar-10-batches-py", CIFAR10, b"labels", 10, "CIFAR-10")


def load_cifar100(folder: Path | str) -> Split:
    """Read CIFAR-100 (``cifar-100-python``, fine labels); otherwise as `load_cifar10`."""
    return _load(folder, "cifar-100-python", CIFAR100, b"fine_labels", 100, "CIFAR-100")


def find(folder: Path, child: str, files: list[str]) -> Path | None:
    """Return the folder, or its child, that holds all the files; else None."""
    for place in (folder, folder / child):
        if all((place / name).is_file() for name in files):
            return place
    return None


def _load(
    folder: Path | str,
    child: str,
    files: list[str],
    key: bytes,
    k: int,
    name: str,
) -> Split:
    folder = Path(folder)
    place = find(folder, child, files)
    if place is None:
        missing = [n for n in files if not (folder / n).is_file()]
        raise FileNotFoundError(f"{folder} must hold {', '.join(missing)}; they are missing")
    train = [_batch(place / part, key, k) for part in files[:-1]]
    test = [_batch(place / part, key, k) for part in files[-1:]]
    return Split(
        train_x=torch.cat([x for x, _ in train]),
        train_y=torch.cat([y for _, y in train]),
        test_x=torch.cat([x for x, _ in test]),
        test_y=torch.cat([y for _, y in test]),
        classes=k,
        name=name,
    )


def _batch(path: Path, key: bytes, classes: int) -> tuple[Tensor, Tensor]:
    try:
        content = _Reader(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{path} must be a CIFAR pickle; {error}") from error
    if not isinstance(content, dict) or b"data" not in content or key not in content:
        raise ValueError(f"{path} must be a CIFAR pickle with data and {key.decode()}")
    data, labels = np.asarray(content[b"data"]), torch.as_tensor(content[key])
    if data.dtype != np.uint8 or data.shape != (len(labels), 3072):
        raise ValueError(
            f"{path} must hold uint8 data of shape [{len(labels)}, 3072]; got {data.dtype} "
            f"{list(data.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"{path} must hold labels 0 .. {classes - 1}; got {int(labels.max())}")
    images = torch.from_numpy(data.reshape(-1, 3, 32, 32).copy()).float() / 255
    return images, labels.long()
