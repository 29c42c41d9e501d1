"""The IDX format of MNIST and its relatives."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jacfast.data.split import Split

MNIST = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}
UNSIGNED_BYTE = 0x08


def read_idx(path: Path | str) -> Tensor:
    """Read an IDX file of unsigned bytes, plain or gzipped.

    Returns:
        uint8, in the shape that the header gives.

    Raises:
        FileNotFoundError: no such file. ValueError: wrong magic, another element type, a size that
            is not what the header says, or a damaged gzip stream.
    """
    path = Path(path)
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} must be a whole gzip file; {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[3] == 0:
        raise ValueError(f"{path} must start with the IDX magic 00 00; got {content[:4].hex(' ')}")
    if content[2] != UNSIGNED_BYTE:
        raise ValueError(f"{path} must hold unsigned bytes, type 0x08; got type 0x{content[2]:02x}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path} must have a header of {start} bytes; got {len(content)}")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} must hold {' x '.join(map(str, shape))} = {math.prod(shape)} bytes after its "
            f"header; got {len(content) - start}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def find_mnist(folder: Path) -> dict[str, Path | None]:
    """Return where each of the four MNIST files lies, or None, by any of its usual names."""
    found: dict[str, Path | None] = {}
    for key, name in MNIST.items():
        dotted = name.replace("-idx", ".idx")
        spellings = [folder / f"{stem}{gz}" for stem in (name, dotted) for gz in ("", ".gz")]
        found[key] = next((path for path in spellings if path.is_file()), None)
    return found


def load_mnist(folder: Path | str) -> Split:
    """Read the four IDX files of MNIST (or Fashion-MNIST) from `folder`.

    Raises:
        FileNotFoundError: files are missing; the message lists them. ValueError: a file is damaged,
            images and labels differ in number, or a label is not in 0 .. 9.
    """
    folder = Path(folder)
    found = find_mnist(folder)
    missing = [MNIST[key] for key, path in found.items() if path is None]
    if missing:
        raise FileNotFoundError(
            f"{folder} must hold {', '.join(missing)} (or .gz); they are missing"
        )
    paths = {key: path for key, path in found.items() if path is not None}
    parts = {key: read_idx(path) for key, path in paths.items()}
    for part in ("train", "test"):
        x, y = parts[f"{part}_x"], parts[f"{part}_y"]
        if x.dim() != 3 or y.dim() != 1 or len(x) != len(y):
            raise ValueError(
                f"{paths[f'{part}_x']} and {paths[f'{part}_y']} must hold [N, H, W] images and [N] "
                f"labels; got {list(x.shape)} and {list(y.shape)}"
            )
        if len(y) and int(y.max()) > 9:
            raise ValueError(f"{paths[f'{part}_y']} must hold labels 0 .. 9; got {int(y.max())}")
    return Split(
        train_x=parts["train_x"][:, None].float() / 255,
        train_y=parts["train_y"].long(),
        test_x=parts["test_x"][:, None].float() / 255,
        test_y=parts["test_y"].long(),
        classes=10,
        name=f"MNIST format, {folder.name}",
    )
