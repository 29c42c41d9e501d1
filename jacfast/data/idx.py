"""The IDX format of MNIST and its relatives."""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jacfast import checks
from jacfast.data.split import Split

MNIST = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}
GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08
CHUNK = 1 << 20


def read_idx(path: Path | str) -> Tensor:
    """Read an IDX file of unsigned bytes, plain or gzipped (known by its first bytes).

    Memory is taken for what the file holds, never for what its header promises.

    Returns:
        uint8, in the shape that the header gives.

    Raises:
        FileNotFoundError: no such file. ValueError: wrong magic, another element type, a size that
            is not what the header says, or a damaged gzip stream.
    """
    path = checks.path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be an IDX file; there is no such file")
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
        file.seek(0)
        try:
            return _parse(path, gzip.GzipFile(fileobj=file) if zipped else file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} must be a whole gzip file; {error}") from error


def _parse(path: Path, stream: gzip.GzipFile | io.BufferedReader) -> Tensor:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise ValueError(
            f"{path} must start with the IDX magic 00 00; got {magic.hex(' ') or 'nothing'}"
        )
    if magic[2] != UNSIGNED_BYTE:
        raise ValueError(f"{path} must hold unsigned bytes, type 0x08; got type 0x{magic[2]:02x}")
    sizes = stream.read(4 * magic[3])
    if not sizes or len(sizes) < 4 * magic[3]:
        raise ValueError(
            f"{path} must give at least one size, 4 bytes each; got {len(sizes)} bytes of sizes "
            f"for {magic[3]} dimensions"
        )
    shape = struct.unpack(f">{magic[3]}I", sizes)
    want, have, body = math.prod(shape), 0, bytearray()
    while chunk := stream.read(CHUNK):
        have += len(chunk)
        if have <= want:  # what is too much is counted, not kept
            body += chunk
    if have != want:
        raise ValueError(
            f"{path} must hold {' x '.join(map(str, shape))} = {want} bytes after its header; "
            f"got {have}"
        )
    try:
        return torch.from_numpy(np.frombuffer(body, np.uint8).reshape(shape))
    except ValueError as error:  # 65 dimensions, say, or 0 x (2^32 - 1)^3
        raise ValueError(f"{path} must have a shape that an array can have; {error}") from error


def find_mnist(folder: Path) -> dict[str, Path]:
    """Return where the MNIST files lie, those that are there, by any of their usual names."""
    found: dict[str, Path] = {}
    for key, name in MNIST.items():
        dotted = name.replace("-idx", ".idx")
        for path in (folder / f"{stem}{gz}" for stem in (name, dotted) for gz in ("", ".gz")):
            if path.is_file():
                found.setdefault(key, path)
    return found


def missing(folder: Path) -> list[str]:
    """Return the standard names of the MNIST files that are not in `folder`."""
    found = find_mnist(folder)
    return [name for key, name in MNIST.items() if key not in found]


def load_mnist(folder: Path | str) -> Split:
    """Read the four IDX files of MNIST (or Fashion-MNIST) from `folder`, as they are or gzipped.

    Raises:
        FileNotFoundError: files are missing; the message lists them. ValueError: a file is damaged,
            images are not 28x28 or not as many as the labels, or a label is not in 0 .. 9.
    """
    folder = checks.path("folder", folder)
    if names := missing(folder):
        raise FileNotFoundError(
            f"{folder} must hold the MNIST files, plain or .gz; missing {', '.join(names)}"
        )
    paths = find_mnist(folder)
    train_x, train_y = _pair(paths["train_x"], paths["train_y"])
    test_x, test_y = _pair(paths["test_x"], paths["test_y"])
    place = folder.resolve()
    named = f"{place.parent.name}/raw" if place.name == "raw" else place.name  # torchvision's
    name = f"MNIST format, {named}"
    return Split(train_x, train_y, test_x, test_y, classes=10, name=name)


def _pair(image_path: Path, label_path: Path) -> tuple[Tensor, Tensor]:
    """Read images and their labels, and check that they belong together."""
    x, y = read_idx(image_path), read_idx(label_path)
    if x.dim() != 3 or x.shape[1:] != (28, 28):
        raise ValueError(f"{image_path} must hold images [N, 28, 28]; got {list(x.shape)}")
    if y.shape != x.shape[:1]:
        raise ValueError(
            f"{label_path} must hold one label for each of the {len(x)} images of "
            f"{image_path.name}; got shape {list(y.shape)}"
        )
    if len(y) and int(y.max()) > 9:
        raise ValueError(f"{label_path} must hold labels in 0 .. 9; got {int(y.max())}")
    return x[:, None].float().div_(255), y.long()
