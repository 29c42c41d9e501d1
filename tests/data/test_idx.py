"""The IDX reader: right on whole files, an error in words on every damaged one."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jacfast.data import load_mnist, read_idx
from jacfast.data.idx import MNIST
from tests.data.files import idx_bytes, write_mnist

ARRAY = np.arange(24).reshape(2, 3, 4)
WHOLE = idx_bytes(ARRAY)
ZIPPED = gzip.compress(WHOLE, mtime=0)
ALIKE = settings(derandomize=True, deadline=None)  # the same examples in every run


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("array", [ARRAY, np.arange(256), np.zeros((0, 28, 28))])
def test_reads_what_was_written(tmp_path, array, zipped):
    path = tmp_path / "a-file-of-any-name"
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    got = read_idx(path)
    assert got.dtype == torch.uint8
    assert got.shape == array.shape
    assert got.tolist() == array.tolist()
    got += 1  # the tensor's own memory, open to writing


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "must start with the IDX magic 00 00; got nothing"),
        (b"\x01\x00\x08\x01\x00\x00\x00\x00", "must start with the IDX magic 00 00; got 01 00"),
        (b"\x00\x01" + WHOLE[2:], "must start with the IDX magic 00 00; got 00 01"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "unsigned bytes, type 0x08; got type 0x0d"),
        (b"\x00\x00\x08\x00\x07", "at least one size, .*; got 0 bytes of sizes for 0 dimensions"),
        (b"\x00\x00\x08\x03\x00\x00", "got 2 bytes of sizes for 3 dimensions"),
        (WHOLE[:-1], "2 x 3 x 4 = 24 bytes after its header; got 23"),
        (WHOLE + b"\x00", "= 24 bytes after its header; got 25"),
        (b"\x00\x00\x08\x02" + struct.pack(">2I", 2**30, 2**30), f"= {2**60} bytes .*; got 0"),
        (b"\x00\x00\x08\x41" + struct.pack(">65I", *[1] * 65) + b"\x07", "must have a shape that"),
        (b"\x00\x00\x08\x04" + struct.pack(">4I", 0, *[2**32 - 1] * 3), "must have a shape that"),
        (ZIPPED[:-9], "must be a whole gzip file"),
        (ZIPPED + b"rest", "must be a whole gzip file"),
        (gzip.compress(WHOLE[:-1], mtime=0), "got 23"),
        (gzip.compress(WHOLE + b"\x00", mtime=0), "got 25"),
    ],
)
def test_damaged_files_are_refused_in_words(tmp_path, content, rule):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rule) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@ALIKE
@given(cut=st.integers(0, len(WHOLE) - 1), zipped=st.booleans())
def test_any_truncation_is_a_value_error(tmp_path_factory, cut, zipped):
    content = ZIPPED if zipped else WHOLE
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(content[: cut * len(content) // len(WHOLE)])
    with pytest.raises(ValueError, match="must"):
        read_idx(path)


@ALIKE
@given(at=st.integers(0, len(ZIPPED) - 1), bits=st.integers(1, 255))
def test_a_changed_gzip_byte_is_a_value_error_or_harmless(tmp_path_factory, at, bits):
    """Some bytes of gzip's header (time, operating system) carry no meaning here."""
    content = bytearray(ZIPPED)
    content[at] ^= bits
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(content)
    try:
        got = read_idx(path).tolist()
    except ValueError as error:
        got = str(error)
    assert got == ARRAY.tolist() or str(path) in got


def test_what_the_header_does_not_cover_takes_no_memory(tmp_path):
    """64 MiB of zeros in 64 KiB of gzip, behind a header that says 24 bytes."""
    size = 64 << 20
    path = tmp_path / "bomb"
    path.write_bytes(ZIPPED + gzip.compress(bytes(size)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"= 24 bytes after its header; got {24 + size}$"):
            read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 8


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_missing_file(tmp_path, place):
    with pytest.raises(FileNotFoundError, match="must be an IDX file; there is no such file"):
        read_idx(tmp_path / place)


@pytest.mark.parametrize("zipped", [False, True])
def test_load_mnist(tmp_path, zipped):
    split = load_mnist(write_mnist(tmp_path, zipped=zipped))
    raw = read_idx(next(tmp_path.glob("train-images*")))
    assert torch.equal(split.train_x, raw.view(40, 1, 28, 28).float() / 255)
    assert split.test_x.shape == (20, 1, 28, 28)
    assert split.test_x.dtype == torch.float32
    assert split.test_y.dtype == torch.int64
    assert split.test_y.tolist() == [k % 10 for k in range(20)]
    assert split.classes == 10


def test_a_part_may_be_empty(tmp_path):
    split = load_mnist(write_mnist(tmp_path, test=0))
    assert (split.test_x.shape, split.test_y.shape) == ((0, 1, 28, 28), (0,))


def test_other_spelling_of_the_names(tmp_path):
    write_mnist(tmp_path, zipped=True)
    for name in MNIST.values():
        (tmp_path / f"{name}.gz").rename(tmp_path / f"{name.replace('-idx', '.idx')}.gz")
    assert (tmp_path / "train-images.idx3-ubyte.gz").exists()
    assert len(load_mnist(tmp_path).train_x) == 40


def test_missing_parts_are_listed(tmp_path):
    write_mnist(tmp_path)
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"missing train-images-idx3-ubyte, t10k-labels-idx1-ubyte$"
    ):
        load_mnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "rule"),
    [
        ("train-labels-idx1-ubyte", np.zeros(39), r"one label for each of the 40 .* shape \[39\]"),
        ("train-labels-idx1-ubyte", np.zeros((40, 1)), r"one label .* got shape \[40, 1\]"),
        ("t10k-labels-idx1-ubyte", np.arange(20) % 11, r"labels in 0 \.\. 9; got 10"),
        ("t10k-images-idx3-ubyte", np.zeros((20, 784)), r"\[N, 28, 28\]; got \[20, 784\]"),
        ("t10k-images-idx3-ubyte", np.zeros((20, 32, 32)), r"\[N, 28, 28\]; got \[20, 32, 32\]"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, name, array, rule):
    write_mnist(tmp_path)
    (tmp_path / name).write_bytes(idx_bytes(array))
    with pytest.raises(ValueError, match=rule) as caught:
        load_mnist(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
