"""Small data sets in the standard formats, written by the tests."""

import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from jacfast.data.cifar import Layout
from jacfast.data.idx import MNIST


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, train: int = 40, test: int = 20, zipped: bool = False) -> Path:
    """Write four IDX files of separable 'digits': class k is bright in rows 2k and 2k + 1."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 60, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 2] += 150
        for key, array in ((f"{part}_x", images), (f"{part}_y", labels)):
            content, name = idx_bytes(array), MNIST[key]
            if zipped:
                content, name = gzip.compress(content), name + ".gz"
            (folder / name).write_bytes(content)
    return folder


def cifar_batch(layout: Layout, seed: int = 0, count: int = 5) -> dict[bytes, Any]:
    """Return what one CIFAR file holds, with the keys of the published files."""
    rng = np.random.default_rng(seed)
    labels = [int(k) for k in rng.integers(0, layout.classes, count)]
    batch: dict[bytes, Any] = {
        b"batch_label": b"training batch 1 of 5",
        b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        b"filenames": [b"a_s_%06d.png" % i for i in range(count)],
    }
    if layout.key == "fine_labels":
        return batch | {b"fine_labels": labels, b"coarse_labels": [k % 20 for k in labels]}
    return batch | {b"labels": labels}


def write_cifar(folder: Path, layout: Layout, count: int = 5) -> Path:
    """Write the files of a CIFAR data set; file i is `cifar_batch(layout, seed=i, count)`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(layout.files):
        content = pickle.dumps(cifar_batch(layout, seed, count), protocol=2)
        (folder / name).write_bytes(content)
    return folder


class _Python2(pickle._Pickler):  # type: ignore[name-defined]  # the one in Python: open to change
    """Writes bytes and str alike as Python 2 wrote its str, as in the published files."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_string(self, value: bytes | str) -> None:
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        short = len(raw) < 256
        opcode = pickle.SHORT_BINSTRING if short else pickle.BINSTRING
        self.write(opcode + struct.pack("<B" if short else "<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(batch: dict[bytes, Any]) -> bytes:
    """Return the pickle that Python 2 and its numpy wrote: protocol 2, str, numpy.core."""
    stream = io.BytesIO()
    _Python2(stream, protocol=2).dump(batch)
    return stream.getvalue().replace(b"numpy._core.", b"numpy.core.")
