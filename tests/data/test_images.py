"""Folders of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from jacfast import data
from jacfast.data.images import CIFAR10


def write(path, value, size=(5, 4), mode="RGB"):
    """Write an image in which the channels differ and the corner is marked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    pixels[..., 1] //= 2
    pixels[0, 1] = 255
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count - label):
                write(tmp_path / part / name / f"{i:04}.png", 100 * label + 10 * i)
    return tmp_path


def test_images_and_labels(folder, monkeypatch):
    monkeypatch.chdir(folder)  # which has its name there, too
    split = data.load_images(".")
    assert (split.classes, split.name) == (2, f"images, {folder.name}")
    assert split.train_x.shape == (5, 3, 4, 5)
    assert split.train_y.tolist() == [0, 1, 0, 1, 0]  # by turns
    assert (255 * split.train_x[:, 0, 3, 4]).round().tolist() == [0, 100, 10, 110, 20]
    assert (255 * split.train_x[1, :, 3, 4]).round().tolist() == [100, 50, 100]
    assert split.test_x[0, :, 0].tolist() == [[0, 1, 0, 0, 0]] * 3
    assert split.test_y.tolist() == [0, 1, 0]


def test_a_folder_without_images_is_no_class(folder):
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "test" / "notes").mkdir()
    (folder / "test" / "notes" / "read.me").touch()
    split = data.load(folder)
    assert (split.classes, split.train_y.tolist()) == (2, [0, 1, 0, 1, 0])


def test_black_and_white_ones_are_grey(tmp_path):
    for part, mode in (("train", "1"), ("test", "L")):
        write(tmp_path / part / "a" / "x.png", 0, mode=mode)
    split = data.load_images(tmp_path)
    assert split.train_x[0, 0, 0].tolist() == [0, 1, 0, 0, 0]
    assert torch.equal(split.train_x, split.test_x)


def test_grey_ones_have_one_channel(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / part / "a" / "x.PNG", 80, mode="L")
    split = data.load_images(tmp_path)
    assert split.train_x.shape == (1, 1, 4, 5)
    assert float(split.train_x[0, 0, 3, 4]) == pytest.approx(57 / 255, abs=1 / 255)


def test_jpegs_are_read_as_they_are(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / part / "a" / "x.jpg", 80)
    pixels = np.asarray(Image.open(tmp_path / "train" / "a" / "x.jpg")).transpose(2, 0, 1)
    assert torch.equal(
        data.load_images(tmp_path).train_x[0], torch.from_numpy(pixels / 255).float()
    )


def test_cifar_10_is_known_by_its_classes(tmp_path):
    for part in ("train", "test"):
        for name in CIFAR10:
            write(tmp_path / part / name / "0.png", 80, (32, 32))
    assert data.load(tmp_path).name == f"CIFAR-10 in image files, {tmp_path.name}"
    for part in ("train", "test"):
        (tmp_path / part / "truck").rename(tmp_path / part / "lorry")
    assert data.load(tmp_path).name == f"images, {tmp_path.name}"


@pytest.mark.parametrize(
    ("part", "name", "options", "message"),
    [
        ("train", "dog/9.png", {"size": (4, 5)}, r"9.png must be .* 0000.png, .*got \[3, 5, 4\]"),
        ("train", "dog/9.png", {"mode": "L"}, r"9.png must be .* 0000.png, .*got \[1, 4, 5\]"),
        ("test", "cow/9.png", {}, "same classes in train and test; only one of them has cow$"),
    ],
)
def test_refused(folder, part, name, options, message):
    write(folder / part / name, 5, **options)
    with pytest.raises(ValueError, match=message):
        data.load(folder)


def test_as_many_classes_that_are_others_are_refused(folder):
    (folder / "test" / "dog").rename(folder / "test" / "cow")
    with pytest.raises(ValueError, match=r"same classes .*; only one of them has cow, dog$"):
        data.load(folder)


def test_a_damaged_file_is_named(folder):
    (folder / "test" / "dog" / "0000.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0000\.png must be an image; got cannot identify"):
        data.load(folder)


@pytest.mark.parametrize(
    ("options", "shape"), [({"size": (6, 6)}, r"\[3, 6, 6\]"), ({"mode": "L"}, r"\[1, 4, 5\]")]
)
def test_train_and_test_of_two_sizes_or_colours(tmp_path, options, shape):
    write(tmp_path / "train" / "a" / "x.png", 1)
    write(tmp_path / "test" / "a" / "x.png", 1, **options)
    with pytest.raises(ValueError, match=rf"got \[3, 4, 5\] in train and {shape} in test"):
        data.load(tmp_path)


def test_what_is_missing(tmp_path):
    write(tmp_path / "train" / "a" / "x.png", 1)
    with pytest.raises(FileNotFoundError, match=r"missing test/CLASS/\*.png or .jpg$"):
        data.load_images(tmp_path)


def test_16_bits_are_refused(folder):
    """Pillow cuts them off at 255."""
    pixels = np.arange(0, 40_000, 2000, dtype=np.uint16).reshape(4, 5)
    Image.fromarray(pixels).save(folder / "test" / "dog" / "0000.png")
    with pytest.raises(ValueError, match=r"0000\.png must be .*more than 8 bits .*mode I;16"):
        data.load(folder)


def test_a_broken_chunk_of_a_png(folder):
    """Too short a length: what follows is no chunk, and Pillow raises a SyntaxError."""
    file = folder / "test" / "dog" / "0000.png"
    whole = file.read_bytes()
    at = whole.index(b"IDAT")
    file.write_bytes(whole[: at - 4] + b"\0\0\0\4" + whole[at:])
    with pytest.raises(ValueError, match=r"0000\.png must be an image; got broken PNG"):
        data.load(folder)
