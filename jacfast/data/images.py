"""A folder of images: train/CLASS/*.png and test/CLASS/*.png, or .jpg, or .jpeg."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jacfast import checks
from jacfast.data.split import Split
from jacfast.progress import watch

ENDINGS = (".png", ".jpg", ".jpeg")
PARTS = ("train", "test")
# known by its classes; copies of it in image files are common
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def missing(folder: Path) -> list[str]:
    """Return what a folder of images must have, and this one has not."""
    return [f"{part}/CLASS/*.png or .jpg" for part in PARTS if not _classes(folder / part)]


def load_images(folder: Path | str) -> Split:
    """Read images from train/CLASS/ and test/CLASS/ in `folder`.

    Classes are numbered in the order of their names. Images come by turns, the first of each class,
    the second of each class, so that a prefix holds all classes alike. All images must have one
    size, 8 bits a channel, and be all grey (one channel) or all in colour (three). Needs Pillow.

    Raises:
        FileNotFoundError: there are no images. ValueError: the classes of train and test differ, a
            file is damaged, or images differ in size or colour. ImportError: Pillow is not there.
    """
    folder = checks.path("folder", folder)
    if lacking := missing(folder):
        raise FileNotFoundError(f"{folder} must hold images; missing {', '.join(lacking)}")
    names, tested = (_classes(folder / part) for part in PARTS)
    if names != tested:
        raise ValueError(
            f"{folder} must have the same classes in train and test; only one of them has "
            f"{', '.join(sorted({*names} ^ {*tested}))}"
        )
    (train_x, train_y), (test_x, test_y) = (_part(folder / part, names) for part in PARTS)
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(
            f"{folder} must hold images of one size and colour; got {list(train_x.shape[1:])} in "
            f"train and {list(test_x.shape[1:])} in test"
        )
    known = "CIFAR-10 in image files" if names == CIFAR10 else "images"
    name = f"{known}, {folder.resolve().name}"
    return Split(train_x, train_y, test_x, test_y, classes=len(names), name=name)


def _classes(part: Path) -> list[str]:
    """Return the folders that hold images, sorted."""
    if not part.is_dir():
        return []
    return sorted(child.name for child in part.iterdir() if child.is_dir() and _files(child))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def _part(part: Path, names: list[str]) -> tuple[Tensor, Tensor]:
    """Return images [N, C, H, W] in [0, 1] and labels [N]."""
    ranked = (
        (rank, label, path)
        for label, name in enumerate(names)
        for rank, path in enumerate(_files(part / name))
    )
    files = [(path, label) for _, label, path in sorted(ranked)]
    images: np.ndarray | None = None
    for i, (path, _) in enumerate(watch(files, desc=f"reading {part.name}")):
        pixels = _pixels(path)
        if images is None:
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise ValueError(
                f"{path} must be of the size and colour of {files[0][0].name}, "
                f"{list(images.shape[1:])}; got {list(pixels.shape)}"
            )
        images[i] = pixels
    assert images is not None  # missing() found some
    x = torch.from_numpy(images).float().div_(255)
    return x, torch.tensor([label for _, label in files], device="cpu")


def _pixels(path: Path) -> np.ndarray:
    """Return one image, uint8 [C, H, W]."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would cut them off at 255
                raise OSError(f"more than 8 bits a channel (mode {image.mode})")
            grey = image.mode in ("L", "1")
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, SyntaxError) as error:  # UnidentifiedImageError; a broken PNG
        raise ValueError(f"{path} must be an image; got {error}") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)
