"""A folder of data whose format is known by its file names."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from jacfast import checks
from jacfast.data import cifar, idx, images
from jacfast.data.digits import load_digits
from jacfast.data.split import Split, by_turns

# name: (which standard files are missing from a folder, the reader)
FORMATS: dict[str, tuple[Callable[[Path], list[str]], Callable[[Path], Split]]] = {
    "MNIST": (idx.missing, idx.load_mnist),
    "CIFAR-10": (partial(cifar.missing, layout=cifar.CIFAR10), cifar.load_cifar10),
    "CIFAR-100": (partial(cifar.missing, layout=cifar.CIFAR100), cifar.load_cifar100),
    "images": (images.missing, images.load_images),
}


def load(folder: Path | str | None) -> Split:
    """Read whichever data set `folder` holds, known by its file names; None: `load_digits`.

    In a part whose files are sorted by class the images come by turns, the first of each class, the
    second of each and so on, as from a folder of images: whoever takes the first thousand has all
    classes. Any other order is that of the files.

    Raises:
        FileNotFoundError: it holds none of MNIST, CIFAR-10, CIFAR-100 and images whole; the message
            lists the missing files of each. ValueError: it holds several, or a file is damaged.
    """
    if folder is None:
        return load_digits()
    folder = checks.path("folder", folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder with a data set; there is no such one")
    missing = {name: find(folder) for name, (find, _) in FORMATS.items()}
    whole = [name for name, files in missing.items() if not files]
    if not whole:
        lists = "; ".join(f"{name}: missing {', '.join(files)}" for name, files in missing.items())
        raise FileNotFoundError(f"{folder} must hold a whole data set; looked for {lists}")
    if len(whole) > 1:
        raise ValueError(f"{folder} must hold one data set; got {' and '.join(whole)}")
    return by_turns(FORMATS[whole[0]][1](folder))
